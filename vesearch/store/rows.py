"""The rows of the store's tables: one frozen record of columns per kind of shard."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from vesearch.errors import Unusable
from vesearch.records import Bool, Crop, Entities, Float32, Int64

STRIDE = 1_000_000  # image ids: shard * STRIDE + row; unique for the store's life, no counter
RANKS = 1_000  # entity ids: image id * RANKS + rank; more than detect.max_entities may be

PER_IMAGE = {
    *("image_ids", "image_sizes_hw", "mask_sizes_hw"),
    *("counts", "image_statuses", "image_errors"),
}
Texts = tuple[str | None, ...]
ImageStatus = Literal["ok", "duplicate", "removed", "lost", Unusable]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Columns of one shard: arrays, tuples of bytes, or tuples of texts (None: missing)."""

    KIND: ClassVar[str]
    COUNTED: ClassVar[tuple[str, ...]]  # the columns that counts_of needs
    ADDED: ClassVar[tuple[str, ...]] = ()  # columns that earlier versions did not write

    def counts_of(self, shard: int) -> dict[str, int]:
        """Return how many of what the table of this shard has, as its file says at its end."""
        return {"entities": len(getattr(self, self.COUNTED[0]))}

    def flaw(self, names: Collection[str]) -> str | None:
        """Return what is wrong with the lengths of the named columns, None where nothing is."""
        lengths = {len(getattr(self, name)) for name in names}
        return "has columns of different lengths" if len(lengths) > 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class ImageRows(Rows):
    """What was found at each path; the log's last row of a path is the one that counts.

    paths: as the file system has them (os.fsencode); b"" where a later row of the path counts
        and this one is kept for its content only.
    image_ids: the image whose content the path has: a new one of this shard, an earlier one for
        a copy, -1 where there is no usable image.
    sizes: bytes; mtimes_ns: modification times; widths, heights: upright pixels, 0 unknown.
    taken: when each photo was taken, as Shot has it; earlier versions wrote none.
    statuses: each an ImageStatus: removed by its owner, or moved; lost: could not be read again
        when its entities were to be made (digests says of which content).
    """

    KIND: ClassVar[str] = "images"
    COUNTED: ClassVar = ("image_ids",)
    ADDED: ClassVar = ("taken",)
    paths: tuple[bytes, ...]
    image_ids: Int64
    sizes: Int64
    mtimes_ns: Int64
    widths: Int64
    heights: Int64
    digests: Texts
    statuses: Texts
    errors: Texts
    taken: Texts = ()

    def __post_init__(self) -> None:
        if not self.taken:
            object.__setattr__(self, "taken", (None,) * len(self.paths))

    def counts_of(self, shard: int) -> dict[str, int]:
        """Return how many rows there are, and how many images of the shard's own."""
        return {"rows": len(self.image_ids), "images": len(self.own(shard))}

    def own(self, shard: int) -> Int64:
        """Return the rows whose images are new in this shard: of copies in it, the first."""
        ids, first = np.unique(self.image_ids, return_index=True)
        return np.sort(first[(ids >= 0) & (ids // STRIDE == shard)])

    def take(self, rows: Sequence[int]) -> ImageRows:
        """Return the given rows, in the given order."""
        columns: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, values in columns.items():
            is_array = isinstance(values, np.ndarray)
            columns[name] = values[list(rows)] if is_array else tuple(values[i] for i in rows)
        return ImageRows(**columns)


@dataclass(frozen=True, slots=True, eq=False)
class EntityRows(Rows):
    """The entities of a shard's images: first one row per image, then one row per entity.

    counts: entities per image; the entity rows follow in the same order, best first.
    image_statuses: ok, no_entities, or why the file could not be read again.
    """

    KIND: ClassVar[str] = "entities"
    COUNTED: ClassVar = ("counts",)
    image_ids: Int64
    image_sizes_hw: Int64  # (images, 2) upright pixels
    mask_sizes_hw: Int64  # (images, 2)
    counts: Int64
    image_statuses: Texts
    image_errors: Texts
    boxes_xyxy: Float32  # (entities, 4)
    areas: Float32
    scores: Float32
    peaks_xy: Float32  # (entities, 2)
    masks: tuple[bytes, ...]  # COCO compressed run lengths
    labels: Texts
    is_stuff: Bool

    def flaw(self, names: Collection[str]) -> str | None:
        """Return which named column does not have a row per image, or per entity."""
        images, entities = len(self.image_ids), int(np.sum(self.counts))
        for name in names:
            per_image = name in PER_IMAGE
            rows, wanted = len(getattr(self, name)), images if per_image else entities
            known = ("image_ids" if per_image else "counts") in names
            if known and rows != wanted:
                return f"has {rows} {name} for {wanted} {'images' if per_image else 'entities'}"
        return None

    def counts_of(self, shard: int) -> dict[str, int]:
        """Return how many images and entities there are."""
        return {"images": len(self.counts), "entities": int(self.counts.sum())}

    def image_rows(self) -> Int64:
        """Return for each entity the row of its image."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def entities_of(self, image: int) -> Entities:
        """Return the entities of one image row, in pixels of the upright image."""
        start = int(self.counts[:image].sum())
        own = slice(start, start + int(self.counts[image]))
        height, width = self.image_sizes_hw[image].tolist()
        mask_height, mask_width = self.mask_sizes_hw[image].tolist()
        return Entities(
            size_hw=(height, width),
            boxes_xyxy=self.boxes_xyxy[own],
            areas=self.areas[own],
            scores=self.scores[own],
            peaks_xy=self.peaks_xy[own],
            mask_size_hw=(mask_height, mask_width),
            masks=self.masks[own],
            labels=self.labels[own],
            is_stuff=self.is_stuff[own],
        )

    def entity_ids(self) -> Int64:
        """Return the id of each entity: its image's id and its rank there, from 0.

        It does not depend on what else the shard holds, so a shard that is made anew, with some
        photos gone, keeps the ids of the others.
        """
        starts = np.cumsum(self.counts) - self.counts
        ranks = np.arange(self.counts.sum()) - np.repeat(starts, self.counts)
        ids: Int64 = np.repeat(self.image_ids, self.counts) * RANKS + ranks
        return ids


@dataclass(frozen=True, slots=True, eq=False)
class CropRows(Rows):
    """One crop per entity, as the entity rows.

    jpegs: b"" where the photo was gone by then. covers: as Crop has them; earlier versions wrote
        none, b"".
    """

    KIND: ClassVar[str] = "crops"
    COUNTED: ClassVar = ("jpegs",)
    ADDED: ClassVar = ("covers",)
    jpegs: tuple[bytes, ...]
    covers: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not self.covers:
            object.__setattr__(self, "covers", (b"",) * len(self.jpegs))

    @classmethod
    def of(cls, crops: Sequence[Crop]) -> CropRows:
        """Return the columns of crops."""
        return cls(tuple(crop.jpeg for crop in crops), tuple(crop.cover for crop in crops))

    def crops(self) -> list[Crop]:
        """Return the crops."""
        return [Crop(*columns) for columns in zip(self.jpegs, self.covers, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingRows(Rows):
    """One embedding per entity, (entities, dim) float16, as the entity rows; zeros: no crop."""

    KIND: ClassVar[str] = "embeddings"
    COUNTED: ClassVar = ("embeddings",)
    embeddings: NDArray[np.float16]


@dataclass(frozen=True, slots=True, eq=False)
class VectorRows(Rows):
    """One L2-normalised projection per entity, (entities, dim), as the entity rows; zeros: none."""

    KIND: ClassVar[str] = "vectors"
    COUNTED: ClassVar = ("vectors",)
    vectors: Float32


def same_rows(one: Rows, other: Rows) -> bool:
    """Tell whether two records of one kind hold the same values."""
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)
