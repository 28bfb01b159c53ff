"""The entities of a collection in columns: what grouping asks of all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vesearch.records import Bool, Float32, Int64
from vesearch.store.lookup import Lookup
from vesearch.store.rows import RANKS

# of its photo: what is smaller shows too little to be told by, and is little to look at
LEAST_SHARE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The live entities of a collection, in the order of their ids; 29 bytes each.

    ids: (n,). boxes: (n, 4) x0, y0, x1, y1 in units of the photos' sides. shares: (n,) of their
    photos' areas. is_stuff: (n,).
    """

    ids: Int64
    boxes: Float32
    shares: Float32
    is_stuff: Bool

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_ids(self) -> Int64:
        """Which image each is of, (n,)."""
        return self.ids // RANKS

    @property
    def is_thing(self) -> Bool:
        """Which are worth grouping, (n,): no background, and nothing tiny."""
        kept: Bool = ~self.is_stuff & (self.shares >= LEAST_SHARE)
        return kept

    def rows_of(self, ids: Int64) -> Int64:
        """Return where entities stand, of any shape; -1 for one that is not live."""
        if not len(self.ids):
            return np.full(ids.shape, -1, np.int64)
        rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        return np.where(self.ids[rows] == ids, rows, -1)


def columns_of(catalog: Lookup) -> Columns:
    """Read the columns of all live entities."""
    ids, boxes = [np.zeros(0, np.int64)], [np.zeros((0, 4), np.float32)]
    shares, is_stuff = [np.zeros(0, np.float32)], [np.zeros(0, np.bool_)]
    for shard in catalog.shards():
        for image in catalog.images(shard):
            if not image.paths or image.entities is None:
                continue
            width, height = max(image.shot.width, 1), max(image.shot.height, 1)
            ids.append(image.image_id * RANKS + np.arange(len(image.entities)))
            sides = np.array([width, height, width, height], np.float32)
            boxes.append(np.asarray(image.entities["box_xyxy"] / sides, np.float32))
            shares.append(np.asarray(image.entities["area"] / (width * height), np.float32))
            is_stuff.append(image.entities["is_stuff"])
    whole = np.concatenate(boxes), np.concatenate(shares), np.concatenate(is_stuff)
    return Columns(np.concatenate(ids), *whole)
