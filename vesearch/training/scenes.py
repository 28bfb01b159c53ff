"""Make training scenes of annotated photos: scaled, cropped, flipped, recoloured, pasted upon.

Pasting objects of other photos: Ghiasi et al. 2012.07177 (simple copy-paste).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from vesearch.masks import area_of, box_of, decoded
from vesearch.records import Bool, Float32, UInt8
from vesearch.training.photos import Photo

_LEAST_OBJECT = 0.0035  # share of the scene: what is smaller is neither object nor background
_LEAST_VISIBLE = 0.3  # share of an object left after cropping and pasting, else likewise
_LEAST_SOURCE = 0.008  # share of its photo that a pasted object has at least
_PASTE = 0.5  # of the scenes get objects of another photo
_PASTED_SIDE = (0.12, 0.6)  # of the scene: the longest side of a pasted object
_CROWD = 0.3  # of these scenes get more and smaller ones instead, which touch and overlap
_CROWD_OF = (4, 13)  # objects, the second number excluded
_CROWD_SIDE = (0.1, 0.3)
_GREY = 0.08  # of the scenes lose their colours
_COLOUR = 0.35  # largest change of brightness, contrast and saturation


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One training example.

    pixels: (s, s, 3) uint8; masks: (n, s, s); ignored_xyxy: (k, 4) boxes whose inside is no
    background; complete_xyxy: (m, 4) boxes outside of which nothing is known to be background.
    """

    pixels: UInt8
    masks: Bool
    ignored_xyxy: Float32
    complete_xyxy: Float32


def make(
    photos: Sequence[Photo],
    weights: NDArray[np.float64],
    side: int,
    zoom: tuple[float, float],
    rng: np.random.Generator,
    *,
    mosaics: float = 0.0,
) -> Scene:
    """Return a random scene of side x side pixels.

    weights: how often each photo is taken; zoom: least and most of its longest side, over side;
    mosaics: share of the scenes that are made of four photos, a quarter each.
    """

    def drawn() -> Photo:
        return photos[rng.choice(len(photos), p=weights)]

    if rng.random() < mosaics:
        half = side // 2
        quarters = [_Part.of(drawn(), half, (1.0, max(1.0, zoom[1])), rng) for _ in range(4)]
        part = _Part.joined(quarters)
    else:
        part = _Part.of(drawn(), side, zoom, rng)
    if rng.random() < _PASTE:
        part = _paste(part, drawn(), rng)
    areas = part.objects.sum((1, 2))
    large = areas >= _LEAST_OBJECT * side * side
    keep = large & (areas >= _LEAST_VISIBLE * part.whole)
    unclear = [*part.objects[~keep & (areas > 0)], *part.crowd]
    ignored = [box_or_nothing(mask) for mask in unclear]
    return Scene(
        pixels=_recoloured(part.pixels, rng),
        masks=part.objects[keep],
        ignored_xyxy=np.array(ignored, np.float32).reshape(-1, 4),
        complete_xyxy=part.complete_xyxy,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """A square of a photo: pixels, masks of objects and crowds, and whole, the objects' own areas.

    complete_xyxy: as a Scene has it.
    """

    pixels: UInt8
    objects: Bool
    crowd: Bool
    whole: Float32
    complete_xyxy: Float32

    @classmethod
    def of(
        cls, photo: Photo, side: int, zoom: tuple[float, float], rng: np.random.Generator
    ) -> _Part:
        """Cut a random one out of a photo."""
        shapes = [*photo.objects, *photo.crowd, *([photo.complete] if photo.complete else [])]
        scale = side / max(photo.pixels.shape[:2]) * float(np.exp(rng.uniform(*np.log(zoom))))
        pixels, layers = _placed(photo.pixels, shapes, side, scale, rng)
        count = len(photo.objects)
        complete = box_or_nothing(layers[-1]) if photo.complete else np.array([0, 0, side, side])
        return cls(
            pixels=pixels,
            objects=layers[:count],
            crowd=layers[count : count + len(photo.crowd)],
            whole=np.array([area_of(runs) for runs in photo.objects], np.float32) * scale**2,
            complete_xyxy=complete.astype(np.float32)[None],
        )

    @classmethod
    def joined(cls, quarters: Sequence[_Part]) -> _Part:
        """Put four of them together to one twice as large."""
        half = len(quarters[0].pixels)
        places = [(0, 0), (0, half), (half, 0), (half, half)]
        pixels = np.empty((2 * half, 2 * half, 3), np.uint8)
        layers: list[list[Bool]] = [[], []]
        for part, (top, left) in zip(quarters, places, strict=True):
            pixels[top : top + half, left : left + half] = part.pixels
            around = ((0, 0), (top, half - top), (left, half - left))
            for into, masks in zip(layers, (part.objects, part.crowd), strict=True):
                into.append(np.pad(masks, around))
        objects, crowd = (np.concatenate(own) for own in layers)
        offsets = np.array([(left, top, left, top) for top, left in places], np.float32)
        complete = [p.complete_xyxy + o for p, o in zip(quarters, offsets, strict=True)]
        whole = np.concatenate([part.whole for part in quarters])
        known = np.concatenate(complete)
        if (known == np.array([[0, 0, half, half]]) + offsets).all():  # all of it
            known = np.array([[0, 0, 2 * half, 2 * half]], np.float32)
        return cls(pixels, objects, crowd, whole, known)


def box_or_nothing(mask: Bool) -> Float32:
    """Return the tight (4,) box of a mask, zeros for an empty one."""
    return np.array(box_of(mask) if mask.any() else (0, 0, 0, 0), np.float32)


def _placed(
    pixels: UInt8,
    shapes: Sequence[dict[str, Any]],
    side: int,
    scale: float,
    rng: np.random.Generator,
) -> tuple[UInt8, Bool]:
    """Scale, flip and put a photo and its masks somewhere on a grey square."""
    h, w = pixels.shape[:2]
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    # of what is larger than the scene, a random part is seen; what is smaller lies anywhere
    slack = [side - size[0], side - size[1]]
    left, top = (int(rng.integers(min(0, s), max(0, s) + 1)) for s in slack)
    mirrored = rng.random() < 0.5

    def placed(image: Image.Image, grey: int | tuple[int, int, int]) -> Image.Image:
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        square = Image.new(image.mode, (side, side), grey)
        square.paste(image.resize(size, Image.Resampling.BILINEAR), (left, top))
        return square

    square = np.asarray(placed(Image.fromarray(pixels), (127, 127, 127)))
    layers = np.zeros((len(shapes), side, side), bool)
    for layer, runs in zip(layers, shapes, strict=True):
        mask = Image.fromarray(decoded(runs).view(np.uint8) * 255)
        layer[:] = np.asarray(placed(mask, 0)) > 127
    return square, layers


def _paste(part: _Part, other: Photo, rng: np.random.Generator) -> _Part:
    """Put up to three objects of another photo on top, or a crowd of smaller ones."""
    side, objects, whole = len(part.pixels), part.objects, part.whole
    least = _LEAST_SOURCE * other.pixels.shape[0] * other.pixels.shape[1]
    sources = [runs for runs in other.objects if area_of(runs) >= least]
    crowded = rng.random() < _CROWD
    count = rng.integers(*(_CROWD_OF if crowded else (1, 4)))
    sizes = _CROWD_SIDE if crowded else _PASTED_SIDE
    # a crowd may hold a thing more than once
    chosen = np.resize(rng.permutation(len(sources)), count if crowded and sources else 0)
    chosen = chosen if crowded else rng.permutation(len(sources))[:count]
    canvas = Image.fromarray(part.pixels)
    for choice in chosen:
        mask = decoded(sources[choice])
        x0, y0, x1, y1 = box_of(mask)
        longest = side * np.exp(rng.uniform(*np.log(sizes)))
        scale = longest / max(x1 - x0, y1 - y0)
        size = (max(4, round((x1 - x0) * scale)), max(4, round((y1 - y0) * scale)))
        shape = Image.fromarray(mask[y0:y1, x0:x1].view(np.uint8) * 255)
        shape = shape.resize(size, Image.Resampling.BILINEAR)
        cutting = Image.fromarray(other.pixels[y0:y1, x0:x1]).resize(size)
        if rng.random() < 0.5:
            shape, cutting = (
                i.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for i in (shape, cutting)
            )
        # its centre lies within the scene
        left = int(rng.integers(0, side) - size[0] // 2)
        top = int(rng.integers(0, side) - size[1] // 2)
        layer = Image.new("L", (side, side))
        layer.paste(shape, (left, top))
        canvas.paste(cutting, (left, top), shape)
        covered = np.asarray(layer) > 127
        objects = np.concatenate([objects & ~covered, covered[None]])
        whole = np.append(whole, np.float32(np.count_nonzero(np.asarray(shape) > 127)))
    return replace(part, pixels=np.asarray(canvas), objects=objects, whole=whole)


def _recoloured(pixels: UInt8, rng: np.random.Generator) -> UInt8:
    image = Image.fromarray(pixels)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(1 + rng.uniform(-_COLOUR, _COLOUR))
    if rng.random() < _GREY:
        image = image.convert("L").convert("RGB")
    return np.asarray(image)
