"""Entities as rows of a shard's table, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from vesearch.records import Entities
from vesearch.store.rows import EntityRows
from vesearch.store.shards import Store


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """An image's entities, in pixels of the upright image, or why it could not be read."""

    image_id: int
    entities: Entities | None
    error: str | None = None

    @property
    def status(self) -> str:
        """What the table says of the image."""
        if self.entities is None:
            return "unreadable"
        return "ok" if len(self.entities) else "no_entities"


def to_rows(detected: Iterable[Detected]) -> EntityRows:
    """Put the entities of a shard's images into its table."""
    items = list(detected)
    none = _no_entities()
    each = [none if item.entities is None else item.entities for item in items]
    filled = each or [none]
    return EntityRows(
        image_ids=np.array([item.image_id for item in items], np.int64),
        image_sizes_hw=np.array([e.size_hw for e in each], np.int64).reshape(-1, 2),
        mask_sizes_hw=np.array([e.mask_size_hw for e in each], np.int64).reshape(-1, 2),
        counts=np.array([len(e) for e in each], np.int64),
        image_statuses=tuple(item.status for item in items),
        image_errors=tuple(item.error for item in items),
        boxes_xyxy=np.concatenate([e.boxes_xyxy for e in filled]),
        areas=np.concatenate([e.areas for e in filled]),
        scores=np.concatenate([e.scores for e in filled]),
        peaks_xy=np.concatenate([e.peaks_xy for e in filled]),
        masks=tuple(mask for e in each for mask in e.masks),
        labels=tuple(label for e in each for label in e.labels),
        is_stuff=np.concatenate([e.is_stuff for e in filled]),
    )


def from_rows(rows: EntityRows) -> Iterator[Detected]:
    """Take the entities of each image out of a shard's table."""
    for row, image_id in enumerate(rows.image_ids.tolist()):
        error = rows.image_errors[row]
        yield Detected(image_id, rows.entities_of(row) if error is None else None, error)


def count_entities(store: Store, shard: int) -> int:
    """Return how many entities a shard has."""
    return store.counts(EntityRows, shard)["entities"]


def _no_entities() -> Entities:
    empty = np.zeros(0, np.float32)
    pairs = empty.reshape(0, 2)
    boxes = empty.reshape(0, 4)
    return Entities((0, 0), boxes, empty, empty, pairs, (0, 0), (), (), np.zeros(0, bool))
