"""Decide which of the found entities are kept, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vesearch.errors import ConfigError
from vesearch.records import Bool, Float32, Int64
from vesearch.registry import did_you_mean


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a detector's findings becomes an entity; the same for every detector.

    max_entities: kept per image, best first; min_area: least share of the image, in [0, 1].
    min_score: least score of a thing; stuff has none to compare.
    stuff: "keep" ranks it among the things, "last" after them, "drop" leaves it out.
    exclude_labels: class names left out; "sky" also means "sky-other-merged".
    """

    max_entities: int = 30
    min_area: float = 0.01
    min_score: float = 0.0
    stuff: str = "last"
    exclude_labels: tuple[str, ...] = ()

    def check_labels(self, names: Sequence[str] | None) -> None:
        """Raise ConfigError for an excluded label that a model, naming these, can never give."""
        for label in self.exclude_labels:
            if names is None:
                raise ConfigError(
                    f"detect.exclude_labels is {label!r}, but this detector names no classes"
                )
            if not any(_is(label, name) for name in names):
                hint = did_you_mean(label, names) if len(names) <= 20 else _nearest(label, names)
                raise ConfigError(f"detect.exclude_labels: this detector has no {label!r}{hint}")

    def rows(
        self,
        scores: Float32,
        areas: Float32,
        *,
        labels: Sequence[str | None] | None = None,
        is_stuff: Bool | None = None,
    ) -> Int64:
        """Return the rows to keep, best first.

        scores: (n,) in [0, 1]; areas: (n,) shares of the image; labels: n class names;
        is_stuff: (n,), none where left out.
        """
        stuff = np.zeros(len(scores), bool) if is_stuff is None else is_stuff
        keep = (areas >= self.min_area) & (stuff | (scores >= self.min_score))
        if self.stuff == "drop":
            keep &= ~stuff
        if self.exclude_labels and labels is not None:
            keep &= np.array([not self._excludes(label) for label in labels], bool)
        # lexsort: the last key is the first criterion; it is stable, so equal rows keep their order
        order = np.lexsort((-areas, -scores, stuff & (self.stuff != "keep")))
        best: Int64 = order[keep[order]][: self.max_entities].astype(np.int64)
        return best

    def _excludes(self, label: str | None) -> bool:
        return label is not None and any(_is(wish, label) for wish in self.exclude_labels)


def _is(wish: str, label: str) -> bool:
    """COCO's merged stuff classes are called sky-other-merged, tree-merged and so on."""
    return label.lower() == wish.lower() or label.lower().startswith(f"{wish.lower()}-")


def _nearest(label: str, names: Sequence[str]) -> str:
    """Return a hint, or nothing: a list of a hundred classes would not help."""
    hint = did_you_mean(label, names)
    return hint if "did you mean" in hint else ""
