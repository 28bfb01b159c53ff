"""Find the near-copies among all photos of a collection."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vesearch.alike import Layout, NearCopies
from vesearch.groups.columns import Columns
from vesearch.groups.linkage import Forest
from vesearch.groups.neighbours import BLOCK, Told, neighbours
from vesearch.groups.places import shared
from vesearch.records import Int64
from vesearch.store.rows import RANKS
from vesearch.store.snapshot import Snapshot

# of near-copies one of the largest entities is found by another's: so few are asked for
_LARGEST = 3
_NEAREST = 12
_LEAST = 0.7  # cosine
_SAME_PLACE = 0.3  # IoU, as near-copies are told by


def leading_rows(columns: Columns) -> Int64:
    """Return the rows of each photo's largest entities, in the order of ids."""
    order = np.lexsort((-columns.shares, columns.image_ids))
    images = columns.image_ids[order]
    starts = np.searchsorted(images, images)  # where each one's image begins
    return np.sort(order[np.arange(len(order)) - starts < _LARGEST])


def near_copies(snapshot: Snapshot, columns: Columns, told: Told) -> list[list[int]]:
    """Return the groups of images that are near-copies, each sorted.

    A burst is a chain: each image is a near-copy of another one of its group, not of all. It costs
    three searches a photo, and comparing those that may be near-copies; memory goes with the photos
    of a block. told: is called with how many more entities were asked for.
    """
    images = np.unique(columns.image_ids)
    forest = Forest(len(images))
    leading = columns.ids[leading_rows(columns)]
    for start in range(0, len(leading), BLOCK):
        compared = _Compared(snapshot)
        block = leading[start : start + BLOCK]
        for one, other in _may_be(snapshot, columns, block, told):
            a, b = np.searchsorted(images, (one, other)).tolist()
            if forest.root(a) != forest.root(b) and compared.are_near(one, other):
                forest.join(a, b)
    return [images[group].tolist() for group in forest.groups()]


class _Compared:
    """Images of a block that are compared; each is read once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._copies = NearCopies(snapshot)
        self._layouts: dict[int, Layout | None] = {}

    def are_near(self, one: int, other: int) -> bool:
        """Tell whether two images are near-copies; not, where one was just removed."""
        a, b = self._layout(one), self._layout(other)
        return a is not None and b is not None and self._copies.are(a, b)

    def _layout(self, image_id: int) -> Layout | None:
        if image_id not in self._layouts:
            image = self._snapshot.image(image_id)
            there = image is not None and image.entities is not None
            self._layouts[image_id] = Layout(image) if image is not None and there else None
        return self._layouts[image_id]


def _may_be(
    snapshot: Snapshot, columns: Columns, ids: Int64, told: Told
) -> Iterator[tuple[int, int]]:
    """Yield pairs of images, each once, that have similar entities in one place."""
    index = snapshot.build.index
    seen = set[tuple[int, int]]()
    for asked, found, _ in neighbours(index, ids, _NEAREST, least=_LEAST, told=told):
        rows = columns.rows_of(np.stack([asked, found]))  # (2, p)
        rows = rows[:, (rows >= 0).all(axis=0) & (asked // RANKS != found // RANKS)]
        rows = rows[:, shared(*columns.boxes[rows])[0] > _SAME_PLACE]
        images = np.sort(columns.image_ids[rows], axis=0).T.tolist()  # (p, 2)
        for pair in map(tuple, images):
            if pair not in seen:
                seen.add(pair)
                yield pair
