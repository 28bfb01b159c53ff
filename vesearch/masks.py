"""Turn binary masks into entities: run lengths, boxes, areas and peaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from vesearch.records import Bool, Entities, Float32, Int64, UInt8

_PEAK_SIDE = 160  # px: peaks are searched on a grid of at most this side; finer is not seen


def encode(masks: Bool) -> tuple[bytes, ...]:
    """Encode (n, h, w) masks as COCO compressed run lengths (pycocotools' format)."""
    if not len(masks):
        return ()
    columns = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))  # (n, h, w) -> (h, w, n)
    return tuple(rle["counts"] for rle in coco.encode(columns))


def decode(counts: bytes | str, size_hw: tuple[int, int]) -> Bool:
    """Decode COCO compressed run lengths to one (h, w) mask.

    Raises ValueError for runs of another size: a store may come from anybody, and pycocotools
    takes the missing pixels from whatever its memory held.
    """
    h, w = size_hw
    runs = _runs(counts.encode() if isinstance(counts, str) else counts)
    if (runs < 0).any() or runs.sum() != h * w:
        raise ValueError(f"these run lengths are no mask of {w}x{h} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask: Bool = flat.reshape(w, h).T  # COCO's runs go down the columns
    return mask


def _runs(counts: bytes) -> Int64:
    """Return the run lengths in pycocotools' text: 5 bits a character, later ones as differences.

    Of a character less 48, bit 5 says that the number goes on, bit 4 of the last one is its sign;
    from the fourth run on it is the difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for code in counts:
        bits = code - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("these are no run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return np.array(runs, np.int64)


def from_coco(shape: Any, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Return a COCO annotation's segmentation as compressed run lengths, {"size", "counts"}.

    shape: polygons, or run lengths, compressed or not. Raises ValueError for anything else.
    """
    try:
        if isinstance(shape, dict) and isinstance(shape["counts"], str | bytes):
            return {"size": list(size_hw), "counts": shape["counts"]}
        encoded = coco.frPyObjects(shape, *size_hw)
    except Exception as err:  # the library raises bare Exceptions and what C gives
        raise ValueError(f"no COCO segmentation: {err}") from err
    runs: dict[str, Any] = coco.merge(encoded) if isinstance(encoded, list) else encoded
    return runs


def union(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the run lengths of what any of several of one size cover."""
    merged: dict[str, Any] = coco.merge(list(several))
    return merged


def decoded(runs: dict[str, Any]) -> Bool:
    """Decode {"size", "counts"} to one (h, w) mask."""
    h, w = runs["size"]
    return decode(runs["counts"], (h, w))


def area_of(runs: dict[str, Any]) -> int:
    """Return how many pixels run lengths cover."""
    return int(coco.area(runs))


def resized(counts: bytes, size_hw: tuple[int, int], wanted_hw: tuple[int, int]) -> dict[str, Any]:
    """Return run lengths of one size as those of another, {"size", "counts"}."""
    if size_hw != wanted_hw:
        mask = Image.fromarray(decode(counts, size_hw)).resize(wanted_hw[::-1])
        counts = encode(np.asarray(mask)[None])[0]
    return {"size": list(wanted_hw), "counts": counts}


def enlarged(mask: Bool, size_hw: tuple[int, int]) -> Bool:
    """Return an (h, w) mask at another size, its outline smoothed."""
    image = Image.fromarray(mask.view(np.uint8) * 255)
    resized: Bool = (
        np.asarray(image.resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR)) > 127
    )
    return resized


def light(pixels: UInt8, size_hw: tuple[int, ...]) -> Bool:
    """Return where an (h, w, 3) picture is lighter than half of its lightest, at another size."""
    grey = Image.fromarray(pixels).convert("L").resize((size_hw[1], size_hw[0]))
    values = np.asarray(grey)
    inside: Bool = values > max(int(values.max()), 1) / 2  # of 0 and 1 as of 0 and 255
    return inside


def box_of(mask: Bool) -> tuple[int, int, int, int]:
    """Return the tight (x0, y0, x1, y1) box of a non-empty (h, w) mask, ends exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def peak_of(mask: Bool) -> tuple[float, float]:
    """Return (x, y) of the pixel centre deepest inside a non-empty (h, w) mask.

    Deepest: the largest Euclidean distance to the outside; beyond the image is outside.
    """
    from scipy.ndimage import distance_transform_edt

    x0, y0, x1, y1 = box_of(mask)
    step = max(1, -(-max(x1 - x0, y1 - y0) // _PEAK_SIDE))
    grid = mask[y0:y1:step, x0:x1:step]
    if not grid.any():  # a shape thinner than the step fell between the samples
        step, grid = 1, mask[y0:y1, x0:x1]
    depth = distance_transform_edt(np.pad(grid, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x0 + int(column) * step) + 0.5, float(y0 + int(row) * step) + 0.5


def of_boxes(
    boxes_xyxy: Float32, size_hw: tuple[int, int], mask_size_hw: tuple[int, ...]
) -> Entities:
    """Return (n, 4) boxes, in pixels of an image of size_hw, as entities that fill them.

    mask_size_hw: height and width of the masks; what comes after is not looked at.
    """
    height, width = mask_size_hw[:2]
    scale = np.array([width / size_hw[1], height / size_hw[0]] * 2)
    low, high = np.floor(boxes_xyxy * scale).astype(int), np.ceil(boxes_xyxy * scale).astype(int)
    filled = np.zeros((len(boxes_xyxy), height, width), bool)
    for mask, (x0, y0, _, _), (_, _, x1, y1) in zip(filled, low, high, strict=True):
        mask[max(0, y0) : max(y1, y0 + 1), max(0, x0) : max(x1, x0 + 1)] = True
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    return Entities(
        size_hw=size_hw,
        boxes_xyxy=boxes_xyxy,
        areas=sides.prod(1).astype(np.float32),
        scores=np.ones(len(boxes_xyxy), np.float32),
        peaks_xy=(boxes_xyxy[:, :2] + sides / 2).astype(np.float32),
        mask_size_hw=(height, width),
        masks=encode(filled),
        labels=(None,) * len(boxes_xyxy),
        is_stuff=np.zeros(len(boxes_xyxy), bool),
    )


def to_entities(
    masks: Bool,
    scores: Float32,
    *,
    labels: Sequence[str | None] | None = None,
    is_stuff: Bool | None = None,
) -> Entities:
    """Build the entities of one image from its (n, h, w) masks; empty masks are left out."""
    if masks.ndim != 3:
        raise ValueError(f"masks must be (n, h, w), got {masks.shape}")
    filled = np.flatnonzero(masks.any((1, 2)))
    size_hw = (masks.shape[1], masks.shape[2])
    boxes = [box_of(masks[i]) for i in filled]
    peaks = [peak_of(masks[i]) for i in filled]
    stuff = np.zeros(len(masks), bool) if is_stuff is None else np.asarray(is_stuff, bool)
    return Entities(
        size_hw=size_hw,
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        areas=masks[filled].sum((1, 2)).astype(np.float32),
        scores=np.asarray(scores, np.float32)[filled],
        peaks_xy=np.array(peaks, np.float32).reshape(-1, 2),
        mask_size_hw=size_hw,
        masks=encode(masks[filled]),
        labels=tuple(None if labels is None else labels[int(i)] for i in filled),
        is_stuff=stuff[filled],
    )
