"""The records that modules exchange; each checks its shapes at birth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Shot:
    """What a photo says of itself.

    width, height: the upright image's own size in pixels.
    taken: when, by the camera's clock and without a zone, as 2024-05-31T12:30:59 (ISO 8601); None
        where the file does not tell.
    note: what of it could not be read, None where it is whole.
    """

    width: int
    height: int
    taken: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A decoded image: upright RGB, shrunk to the working size.

    pixels: (h, w, 3) uint8.
    width, height: the upright image's own size in pixels, before shrinking.
    digest: hex digest of the file's bytes.
    taken, note: as Shot has them.
    """

    pixels: UInt8
    width: int
    height: int
    digest: str
    taken: str | None = None
    note: str | None = None

    @property
    def shot(self) -> Shot:
        """What the photo says of itself."""
        return Shot(self.width, self.height, self.taken, self.note)

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(
                f"pixels must be (h, w, 3) uint8, got {self.pixels.shape} {self.pixels.dtype}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Entities:
    """The entities of one image in columns, the one a person would point at first on top.

    size_hw: height and width of the image whose pixels boxes, areas and peaks count.
    boxes_xyxy: (n, 4) float32, pixel edges: x1 and y1 are exclusive, a full image is (0, 0, w, h).
    areas: (n,) float32, square pixels inside the mask.
    scores: (n,) float32 in [0, 1]; each its own: the order says more, and need not follow them.
    peaks_xy: (n, 2) float32, the point deepest inside each mask.
    mask_size_hw, masks: size and COCO run-length counts of the masks; this may be a smaller
        image than size_hw.
    labels: a foreign class name, or None.
    is_stuff: (n,) bool, true for background such as sky.
    """

    size_hw: tuple[int, int]
    boxes_xyxy: Float32
    areas: Float32
    scores: Float32
    peaks_xy: Float32
    mask_size_hw: tuple[int, int]
    masks: tuple[bytes, ...]
    labels: tuple[str | None, ...]
    is_stuff: Bool

    def __post_init__(self) -> None:
        n = len(self.masks)
        expected = {"boxes_xyxy": (n, 4), "peaks_xy": (n, 2), "areas": (n,), "scores": (n,)}
        for name, shape in (expected | {"is_stuff": (n,)}).items():
            got = getattr(self, name).shape
            if got != shape:
                raise ValueError(f"{name} must be {shape}, got {got}")
        if len(self.labels) != n:
            raise ValueError(f"labels must have {n} entries, got {len(self.labels)}")

    def __len__(self) -> int:
        return len(self.masks)

    def take(self, rows: Sequence[int] | Int64) -> Entities:
        """Return the given rows, in the given order."""
        index = np.asarray(rows, np.int64)
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[index],
            areas=self.areas[index],
            scores=self.scores[index],
            peaks_xy=self.peaks_xy[index],
            masks=tuple(self.masks[i] for i in index),
            labels=tuple(self.labels[i] for i in index),
            is_stuff=self.is_stuff[index],
        )

    def joined(self, other: Entities) -> Entities:
        """Return these and then other ones of the same image, whose masks have the same size."""
        if (self.size_hw, self.mask_size_hw) != (other.size_hw, other.mask_size_hw):
            raise ValueError(f"entities of {self.size_hw} and {other.size_hw} are not of one image")
        return replace(
            self,
            boxes_xyxy=np.concatenate([self.boxes_xyxy, other.boxes_xyxy]),
            areas=np.concatenate([self.areas, other.areas]),
            scores=np.concatenate([self.scores, other.scores]),
            peaks_xy=np.concatenate([self.peaks_xy, other.peaks_xy]),
            masks=self.masks + other.masks,
            labels=self.labels + other.labels,
            is_stuff=np.concatenate([self.is_stuff, other.is_stuff]),
        )

    def scaled(self, size_hw: tuple[int, int]) -> Entities:
        """Return boxes, areas and peaks in pixels of an image of size_hw; masks stay."""
        sy, sx = size_hw[0] / self.size_hw[0], size_hw[1] / self.size_hw[1]
        return replace(
            self,
            size_hw=size_hw,
            boxes_xyxy=(self.boxes_xyxy * [sx, sy, sx, sy]).astype(np.float32),
            areas=(self.areas * (sx * sy)).astype(np.float32),
            peaks_xy=(self.peaks_xy * [sx, sy]).astype(np.float32),
        )


COVER_SIDE = 14  # cells of a crop's cover


@dataclass(frozen=True, slots=True)
class Crop:
    """An entity cut out of its photo, as it is embedded.

    jpeg: a square one; b"" where the photo was gone by then.
    cover: how much of each of COVER_SIDE x COVER_SIDE cells of it lies in the entity's mask, 0 to
        255, row by row; b"" where that is not known.
    """

    jpeg: bytes
    cover: bytes = b""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was left out, its status in the images table, and why."""

    path: str
    status: str
    error: str


@dataclass(frozen=True, slots=True)
class Part:
    """What matches one of several examples, in a photo that holds a match for each.

    Fields as Match has them.
    """

    entity_id: int
    box_xyxy: tuple[float, float, float, float]
    peak_xy: tuple[float, float]
    similarity: float
    confidence: float
    mask: bytes = b""
    mask_size_hw: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a match looks like what was asked for, and where on that.

    letter: the same for one place on what was asked for. xy, query_xy: pixels of the upright
    photos. similarity: cosine of the local features.
    """

    letter: str
    xy: tuple[float, float]
    query_xy: tuple[float, float]
    similarity: float


@dataclass(frozen=True, slots=True)
class Match:
    """One entity found for a query, rank 1 first.

    image: a path of the photo, one where it is still as it was ingested if there is one; also_at:
        the other paths with the same content. stale: there is another photo at image by now.
    alike: a path of each photo that is nearly the same, and is no match of its own therefore;
        alike_ids: the ids of what matches there, of several examples one for each.
    box_xyxy, peak_xy: pixels of the upright photo.
    similarity: cosine in [-1, 1]; percentile: share in [0, 100] of random entity pairs that are
        less similar, None where the collection has no pairs. confidence: how likely it is that this
        is what was asked for, in [0, 1].
    mask, mask_size_hw: COCO run lengths of the entity, over an image of that size; b"" where they
        were not asked for.
    size_hw: height and width of the upright photo. taken: when, as Shot has it. parts: of a match
        for several examples, that for each of them; the match's own fields are those of the weakest
        part. spots: where it looks like the first example, where that was asked for.
    """

    rank: int
    image: str
    also_at: tuple[str, ...]
    entity_id: int
    box_xyxy: tuple[float, float, float, float]
    peak_xy: tuple[float, float]
    similarity: float
    percentile: float | None
    mask: bytes
    mask_size_hw: tuple[int, int]
    stale: bool = False
    alike: tuple[str, ...] = ()
    alike_ids: tuple[tuple[int, ...], ...] = ()
    confidence: float = 0.0
    size_hw: tuple[int, int] = (0, 0)
    taken: str | None = None
    parts: tuple[Part, ...] = ()
    spots: tuple[Spot, ...] = ()
