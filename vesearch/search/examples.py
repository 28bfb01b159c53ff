"""Find out which entity an example is: by number or id, or drawn on its photo."""

from __future__ import annotations

import numpy as np

from vesearch import masks
from vesearch.errors import VesearchError
from vesearch.question import Seen
from vesearch.records import Bool, Entities, Frame, UInt8

_LEAST_PX = 2  # of a box's side: less shows nothing
_TOLERANCES = (12.0, 20.0, 32.0, 48.0)  # of 255: how far colours may be from those at the point
_LEAST_GROWN, _MOST_GROWN = 0.005, 0.5  # of the photo
_AROUND = 0.25  # of the photo's shorter side, where nothing grows
_ALIKE_SIDES = 0.02  # by how much a mask's proportions may differ from its photo's


def check_number(seen: Seen, number: int) -> None:
    """Raise VesearchError unless the photo has an entity of that number."""
    count = len(seen.entities)
    if not 1 <= number <= count:
        has = f"entities 1 to {count}" if count > 1 else f"{count} entity" if count else "no entity"
        place = f"{seen.name}: " if seen.name else ""
        raise VesearchError(f"{place}no entity {number}; the photo has {has}")


def of_box(box: tuple[float, float, float, float], frame: Frame, name: str) -> Entities:
    """Return a box, in pixels of the upright photo, as an entity. Raises VesearchError."""
    x0, y0 = max(box[0], 0.0), max(box[1], 0.0)
    x1, y1 = min(box[2], float(frame.width)), min(box[3], float(frame.height))
    if not (x1 - x0 >= _LEAST_PX and y1 - y0 >= _LEAST_PX):  # a NaN neither
        written = ",".join(f"{value:g}" for value in box)
        size = f"{frame.width}x{frame.height}"
        raise VesearchError(f"{name}the box {written} shows nothing of the photo, of {size}")
    boxes = np.array([[x0, y0, x1, y1]], np.float32)
    return masks.of_boxes(boxes, (frame.height, frame.width), frame.pixels.shape)


def of_whole(frame: Frame) -> Entities:
    """Return all of a photo as an entity."""
    boxes = np.array([[0, 0, frame.width, frame.height]], np.float32)
    return masks.of_boxes(boxes, (frame.height, frame.width), frame.pixels.shape)


def of_mask(mask: Frame, frame: Frame, name: str) -> Entities:
    """Return what is light in another picture of the same proportions. Raises VesearchError."""
    sides = frame.width / frame.height, mask.width / mask.height
    if abs(sides[0] / sides[1] - 1) > _ALIKE_SIDES:
        sizes = f"{mask.width}x{mask.height}, the photo {frame.width}x{frame.height}"
        raise VesearchError(f"{name}the mask has other proportions than the photo: it is {sizes}")
    inside = masks.light(mask.pixels, frame.pixels.shape[:2])
    if inside.all() or not inside.any():
        raise VesearchError(f"{name}the mask is of one colour: it should be light in the entity")
    return _one(inside, frame)


def at_point(xy: tuple[float, float], entities: Entities) -> int | None:
    """Return the number of the smallest entity at a point, in pixels of the upright photo."""
    if not (0 <= xy[0] < entities.size_hw[1] and 0 <= xy[1] < entities.size_hw[0]):
        return None
    height, width = entities.mask_size_hw
    x = int(xy[0] * width / entities.size_hw[1])
    y = int(xy[1] * height / entities.size_hw[0])
    for row in np.argsort(entities.areas, kind="stable").tolist():
        x0, y0, x1, y1 = entities.boxes_xyxy[row].tolist()
        in_box = x0 <= xy[0] <= x1 and y0 <= xy[1] <= y1
        if in_box and masks.decode(entities.masks[row], (height, width))[y, x]:
            return int(row) + 1
    return None


def grown_at(xy: tuple[float, float], frame: Frame, name: str) -> Entities:
    """Return what is around a point in which there is no entity: what has about its colour.

    A box around it where that is next to nothing, or half of the photo. Raises VesearchError for a
    point that is not in the photo.
    """
    height, width = frame.pixels.shape[:2]
    x, y = xy[0] * width / frame.width, xy[1] * height / frame.height
    if not (0 <= x < width and 0 <= y < height):
        size = f"{frame.width}x{frame.height}"
        raise VesearchError(f"{name}the point {xy[0]:g},{xy[1]:g} is not in the photo, of {size}")
    grown = _grown(frame.pixels, int(x), int(y))
    if grown is not None:
        return _one(grown, frame)
    half = _AROUND / 2 * min(frame.width, frame.height)
    return of_box((xy[0] - half, xy[1] - half, xy[0] + half, xy[1] + half), frame, name)


def _grown(pixels: UInt8, x: int, y: int) -> Bool | None:
    """Return the (h, w) region of a point's colour, grown until it is large enough."""
    from scipy.ndimage import binary_fill_holes, gaussian_filter, label

    smooth = gaussian_filter(pixels.astype(np.float32), (2, 2, 0))
    far = np.sqrt(((smooth - smooth[y, x]) ** 2).mean(-1))
    for tolerance in _TOLERANCES:
        parts, _ = label(far < tolerance)
        inside: Bool = binary_fill_holes(parts == parts[y, x])
        if inside.mean() > _MOST_GROWN:
            return None
        if inside.mean() >= _LEAST_GROWN:
            return inside
    return None


def _one(inside: Bool, frame: Frame) -> Entities:
    found = masks.to_entities(inside[None], np.ones(1, np.float32))
    return found.scaled((frame.height, frame.width))
