"""Groups that can be drawn; in a notebook they show themselves."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vesearch.groups.records import Browsed, Similar

if TYPE_CHECKING:  # what loads much is imported by what needs it
    from PIL import Image

    from vesearch.groups.sheet import Masks
    from vesearch.job import Job

KINDS = {".html": "HTML"}  # that are written beside pictures


class _Drawable(ABC):
    """Draws itself from the photos of a collection."""

    __slots__ = ()
    job: Job  # knows the store and the decoders

    @abstractmethod
    def picture(self) -> Image.Image:
        """Return it as a sheet."""

    @abstractmethod
    def _page(self) -> str:
        """Return it as a page of its own."""

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write it as the path's ending says: .png, .jpg and .webp a picture, .html a page.

        Raises VesearchError for a path where a photo of the collection is or, without force,
        anything that vesearch did not draw.
        """
        from vesearch.drawing import picture

        target = Path(path)
        check_target(target, self.job, force=force)
        if target.suffix.lower() in KINDS:
            picture.save_text(self._page(), target)
        else:
            picture.save_picture(self.picture(), target)

    def _repr_png_(self) -> bytes:
        """Return the picture for a notebook (IPython's rich display)."""
        buffer = io.BytesIO()
        self.picture().save(buffer, "PNG")
        return buffer.getvalue()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DrawableSimilar(Similar, _Drawable):
    """The groups of a collection, which can be drawn."""

    job: Job

    def picture(self) -> Image.Image:
        """Return a sheet of 24 groups at most, a row each; photos that are gone stay blank."""
        from vesearch.groups.sheet import draw_similar

        return draw_similar(self, self.job.decoders, _masks(self.job))

    def _page(self) -> str:
        from vesearch.groups.page import page_of_similar

        return page_of_similar(self, self.job.decoders, _masks(self.job))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DrawableBrowsed(Browsed, _Drawable):
    """The frequent things of a collection, which can be drawn."""

    job: Job

    def picture(self) -> Image.Image:
        """Return a sheet with one picture of each; photos that are gone stay blank."""
        from vesearch.groups.sheet import draw_browsed

        return draw_browsed(self, self.job.decoders, _masks(self.job))

    def _page(self) -> str:
        from vesearch.groups.page import page_of_browsed

        return page_of_browsed(self, self.job.decoders, _masks(self.job))


def check_target(target: Path, job: Job, *, force: bool = False) -> None:
    """Raise VesearchError unless groups may be written to a path."""
    from vesearch.drawing import picture

    kinds = picture.PICTURES | KINDS
    picture.check_targets([target], asked=[], store=job.store, force=force, kinds=kinds)


def _masks(job: Job) -> Masks:
    """Return what gives an entity's mask, of the store as it is now."""
    from vesearch.groups.finding import opened

    return opened(job, with_index=False).mask_of
