"""The library's face: a collection of photos, and all that can be done with it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vesearch.config import Config, Scalar
from vesearch.job import Job, configure
from vesearch.question import (
    Answer,
    Boxed,
    Example,
    Numbered,
    Pointed,
    Question,
    Seen,
    Stored,
    Where,
    Whole,
)

if TYPE_CHECKING:  # what loads much is imported by what needs it
    from PIL import Image

    from vesearch.care.compact import Compacted
    from vesearch.care.repair import Verified
    from vesearch.care.status import Status
    from vesearch.export.collection import Exported
    from vesearch.groups.records import Kind
    from vesearch.groups.shown import DrawableBrowsed, DrawableSimilar
    from vesearch.pipeline import Summary
    from vesearch.search import Searcher
    from vesearch.training.embedder import Trained

Name = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DrawableAnswer(Answer):
    """An answer that can be drawn; in a notebook it shows itself."""

    job: Job

    def picture(self) -> Image.Image:
        """Return the photo with its numbered entities, or a sheet of the matches.

        Raises VesearchError where the photo that was asked about changed, or cannot be read, and
        ValueError for matches that were asked for without masks.
        """
        from vesearch.drawing.answers import draw_answer  # takes long to import

        return draw_answer(self, self.job.decoders)

    def save(self, path: Name, *, force: bool = False) -> None:
        """Write the answer as the path's ending says.

        .png, .jpg and .webp hold the picture; .html is a page that needs no other file, with links
        to the photos; .csv is a table of the matches, or of the photo's entities; .json is what
        `vesearch query --json` prints.

        Raises VesearchError for a path where a photo of the collection is or, without force,
        anything that vesearch did not draw.
        """
        from vesearch.drawing import document, picture, report

        asked, target = [Path(seen.name) for seen in self._asked], Path(path)
        kinds = picture.PICTURES | picture.TEXTS
        store = self.job.store
        picture.check_targets([target], asked=asked, store=store, force=force, kinds=kinds)
        ending = target.suffix.lower()
        if ending == ".html":
            picture.save_text(report.page_of(self, self.job.decoders), target)
        elif ending == ".csv":
            picture.save_text(document.table_of(self), target)
        elif ending == ".json":
            picture.save_text(document.json_of(self) + "\n", target)
        else:
            picture.save_picture(self.picture(), target)

    def copy_to(self, folder: Name, *, link: bool = False) -> list[Path]:
        """Copy the matches' photos into a folder, best first; return the copies.

        Their names are kept, with the rank before them: 01-dog.jpg. link: symbolic links in place
        of copies. What is in the folder stays: a copy that is there already is not made again.
        Raises VesearchError.
        """
        from vesearch.export.photos import copy_photos

        there = [(match.rank, Path(match.image)) for match in self.matches if not match.stale]
        return copy_photos(there, Path(folder), store=self.job.store.path, link=link)

    @property
    def _asked(self) -> list[Seen]:
        return [self.seen, *(seen for seen, _ in self.others)]

    def _repr_png_(self) -> bytes:
        """Return the picture for a notebook (IPython's rich display)."""
        buffer = io.BytesIO()
        self.picture().save(buffer, "PNG")
        return buffer.getvalue()


class Collection:
    """Folders of photos that become searchable, kept in a store.

    It can be held open: what other processes write to the store is seen by the next question.
    Questions may be asked from several threads.
    """

    def __init__(
        self,
        store: Name | None = None,
        *,
        config: Name | None = None,
        settings: Mapping[str, Scalar] | None = None,
        device: str | None = None,
    ) -> None:
        """Name a collection; nothing is read or made yet but settings.

        store: its folder, made by the first ingest (default: ./vesearch-store). config: a YAML file
        of settings; settings: {"section.key": value}, which count before it; device: auto, cpu or
        cuda[:i]. What is not given is as the store was made with, or else the default.

        Raises ConfigError.
        """
        flags = {"run.store": None if store is None else os.fspath(store), "run.device": device}
        path = None if config is None else Path(config)
        self.config = configure(path, (), {**(settings or {}), **flags})

    @classmethod
    def of(cls, config: Config) -> Collection:
        """Return the collection that a whole of settings names."""
        made = cls.__new__(cls)
        made.config = config
        return made

    def ingest(
        self, *folders: Name, sync: bool = False, force: bool = False, index: bool = False
    ) -> Summary:
        """Add what is new or changed below folders; continue where an interrupted run stopped.

        sync: also forget files that vanished from the folders; force: even when most of them did.
        index: then build the index.
        Raises VesearchError for a folder without photos, a locked store, or one of other settings.
        """
        from vesearch import pipeline

        how: pipeline.Sync = "no" if not sync else "forced" if force else "careful"
        named = [Path(folder) for folder in folders]
        return pipeline.ingest(self.config, named, sync=how, index=index)

    def build_index(self, *, refit: bool = False) -> Summary:
        """Make the collection searchable; refit: fit the projection anew. Raises VesearchError."""
        from vesearch import pipeline

        return pipeline.run_stages(self.config, ("fit-pca", "build-ngt"), (), refit=refit)

    def query(
        self,
        image: Name | bytes | None = None,
        *,
        entity: int | None = None,
        entity_id: int | None = None,
        box: tuple[float, float, float, float] | None = None,
        point: tuple[float, float] | None = None,
        whole: bool = False,
        top: int | None = None,
        min_confidence: float | None = None,
        all_entities: bool = False,
        include_self: bool = False,
        all_copies: bool = False,
        masks: bool = True,
    ) -> DrawableAnswer:
        """Return an image's entities and, where one is chosen, what is most similar to it.

        image: a file, or the bytes of one. entity: the number of one of its entities, from 1.
        box: or what lies in x0, y0, x1, y1; point: or the entity at x, y; whole: or all of it.
        entity_id: an entity of the collection, in place of an image. top: how many matches
        (default: query.top). min_confidence: how likely they must be right, 0 to 1 (default:
        query.min_confidence). all_entities: more than one match per photo. include_self: also those
        in the image itself and its copies. all_copies: near-copies of a match, such as the other
        frames of a burst, are matches of their own. masks: False where no picture of them will be
        wanted.

        Boxes and peaks are in pixels of the upright photo; a similarity is a cosine, -1 to 1.
        Raises VesearchError for an image that cannot be read and an entity that is not there.
        """
        chosen = [given for given in (entity, box, point, whole or None) if given is not None]
        if (image is None) == (entity_id is None) or len(chosen) + (entity_id is not None) > 1:
            raise TypeError(
                "query takes an image, maybe with an entity, a box, a point or whole=True, "
                "or an entity_id alone"
            )
        photo = image if isinstance(image, bytes | None) else Path(image)
        asked: Example
        if photo is None:
            asked = Stored(entity_id or 0)
        elif entity is not None:
            asked = Numbered(photo, entity)
        elif box is not None:
            asked = Boxed(photo, box)
        elif point is not None:
            asked = Pointed(photo, point)
        elif whole:
            asked = Whole(photo)
        else:
            return self._drawable(self._searcher.look(photo))
        where = Where(not all_entities, include_self, fold=not all_copies)
        top = self.config.query.top if top is None else top
        sure = self.config.query.min_confidence if min_confidence is None else min_confidence
        return self.ask(Question((asked,), (), where, top, min_confidence=sure, masks=masks))

    def ask(self, question: Question) -> DrawableAnswer:
        """Return what a question asks for: several examples, what they are not, filters.

        Its own top and min_confidence count. Raises VesearchError as query does.
        """
        return self._drawable(self._searcher.answer(question))

    def _drawable(self, answer: Answer) -> DrawableAnswer:
        parts = {field.name: getattr(answer, field.name) for field in fields(Answer)}
        return DrawableAnswer(**parts, job=self._searcher.job)

    def similar(
        self,
        *,
        kinds: Sequence[Kind] | None = None,
        top: int | None = None,
        min_confidence: float | None = None,
    ) -> DrawableSimilar:
        """Return what is alike in the collection, in groups.

        kinds: some of copies, burst, near-copies and "the same thing" (default: all). top: the
        largest of each kind (default: all). min_confidence: how likely two entities must be the
        same thing, 0.5 to 1 (default: that of "the same", 0.85).

        No model runs. It costs up to a search of the index for each entity; copies need no index.
        Raises VesearchError where the collection cannot be searched.
        """
        from vesearch.confidence import SAME
        from vesearch.groups.finding import similar_of
        from vesearch.groups.records import KINDS
        from vesearch.groups.shown import DrawableSimilar

        job, least = Job(self.config), SAME if min_confidence is None else min_confidence
        wanted = KINDS if kinds is None else tuple(kinds)
        found = similar_of(job, kinds=wanted, top=top, min_confidence=least)
        return DrawableSimilar(found.groups, found.photos, found.left_out, job=job)

    def browse(self, *, top: int = 24) -> DrawableBrowsed:
        """Return the things that most photos of the collection show, at most so many.

        Each comes with one entity, to go on from: query(entity_id=…). No model runs; where there
        are many entities a sample of them is looked at.
        Raises VesearchError where the collection cannot be searched.
        """
        from vesearch.groups.finding import browsed_of
        from vesearch.groups.shown import DrawableBrowsed

        job = Job(self.config)
        found = browsed_of(job, top=top)
        return DrawableBrowsed(found.things, found.photos, found.entities, found.looked_at, job=job)

    def photos_in(self, folder: Name) -> list[Path]:
        """Return the photos below a folder that an ingest of it would take, sorted by folder.

        Raises VesearchError for a folder without photos.
        """
        from vesearch.stages.walking import find_files
        from vesearch.store.catalog import Catalog

        job = Job(self.config)
        catalog = Catalog.of(job.store) if job.store.exists() else Catalog.empty()
        found = find_files([Path(folder)], catalog, self.config.scan)
        return [Path(os.fsdecode(path)) for path in found.seen]

    def status(self) -> Status:
        """Return what the collection holds, how far it is, and what was skipped."""
        from vesearch.care.status import status_of

        return status_of(Job(self.config))

    def remove(self, *patterns: Name) -> list[str]:
        """Take photos out: files, folders or globs; return their paths. The files stay."""
        from vesearch.stages.forget import remove_named

        return remove_named(Job(self.config), [os.fspath(pattern) for pattern in patterns])

    def compact(self) -> Compacted:
        """Reclaim the space of photos that were removed, replaced or lost."""
        from vesearch.care.compact import compact_store

        return compact_store(Job(self.config))

    def verify(self, *, repair: bool = False) -> Verified:
        """Check every file of the store; repair: make anew what is wrong, and only that."""
        from vesearch.care.repair import verify

        return verify(Job(self.config), repair=repair)

    def export(
        self,
        folder: Name,
        formats: Sequence[str] = ("coco", "csv"),
        *,
        raw: bool = False,
        relative_to: Name | None = None,
    ) -> Exported:
        """Write the entities for other tools, as coco, csv, npy or parquet, into a folder.

        raw: the embedder's output too, in npy and parquet. relative_to: a folder that the paths
        below it are told from. Raises VesearchError where a file is there already.
        """
        from vesearch.export.collection import export

        root = None if relative_to is None else Path(relative_to)
        return export(Job(self.config), Path(folder), tuple(formats), raw=raw, relative_to=root)

    def train(self, out: Name, *, labels: Name | None = None) -> Trained:
        """Train the embedder on the collection's own crops; the weights come into the folder out.

        The collection stays as it is: a new one, made with embed.weights, uses them. labels: a CSV
        file, as `vesearch evaluate retrieval` takes, that says what was gained. An interrupted run
        is continued. Raises VesearchError.
        """
        from vesearch.training.embedder import train

        return train(self.config, Path(out), labels=None if labels is None else Path(labels))

    @cached_property
    def _searcher(self) -> Searcher:
        from vesearch.search import Searcher

        return Searcher(self.config)
