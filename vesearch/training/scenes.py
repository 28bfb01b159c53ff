"""Make training scenes of annotated photos: scaled, cropped, flipped, recoloured, pasted upon.

Pasting objects of other photos: Ghiasi et al. 2012.07177 (simple copy-paste).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
_GREY = 0.08  # of the scenes lose their colours
_COLOUR = 0.35  # largest change of brightness, contrast and saturation


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One training example.

    pixels: (s, s, 3) uint8; masks: (n, s, s); ignored_xyxy: (k, 4) boxes whose inside is no
    background; complete_xyxy: (4,) box outside of which nothing is known to be background.
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
) -> Scene:
    """Return a random scene of side x side pixels.

    weights: how often each photo is taken; zoom: least and most of its longest side, over side.
    """
    photo = photos[rng.choice(len(photos), p=weights)]
    shapes = [*photo.objects, *photo.crowd, *([photo.complete] if photo.complete else [])]
    scale = side / max(photo.pixels.shape[:2]) * float(np.exp(rng.uniform(*np.log(zoom))))
    pixels, layers = _placed(photo.pixels, shapes, side, scale, rng)
    count = len(photo.objects)
    objects, crowd = layers[:count], layers[count : count + len(photo.crowd)]
    whole = np.array([area_of(runs) for runs in photo.objects], np.float32) * scale**2
    complete = box_or_nothing(layers[-1]) if photo.complete else np.array([0, 0, side, side])
    if rng.random() < _PASTE:
        other = photos[rng.choice(len(photos), p=weights)]
        pixels, objects, whole = _paste(pixels, objects, whole, other, rng)
    areas = objects.sum((1, 2))
    large = areas >= _LEAST_OBJECT * side * side
    keep = large & (areas >= _LEAST_VISIBLE * whole)
    unclear = [*objects[~keep & (areas > 0)], *crowd]
    ignored = [box_or_nothing(mask) for mask in unclear]
    return Scene(
        pixels=_recoloured(pixels, rng),
        masks=objects[keep],
        ignored_xyxy=np.array(ignored, np.float32).reshape(-1, 4),
        complete_xyxy=complete.astype(np.float32),
    )


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


def _paste(
    pixels: UInt8, objects: Bool, whole: Float32, other: Photo, rng: np.random.Generator
) -> tuple[UInt8, Bool, Float32]:
    """Put up to three objects of another photo on top."""
    side = len(pixels)
    least = _LEAST_SOURCE * other.pixels.shape[0] * other.pixels.shape[1]
    sources = [runs for runs in other.objects if area_of(runs) >= least]
    canvas = Image.fromarray(pixels)
    for choice in rng.permutation(len(sources))[: rng.integers(1, 4)]:
        mask = decoded(sources[choice])
        x0, y0, x1, y1 = box_of(mask)
        longest = side * np.exp(rng.uniform(*np.log(_PASTED_SIDE)))
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
    return np.asarray(canvas), objects, whole


def _recoloured(pixels: UInt8, rng: np.random.Generator) -> UInt8:
    image = Image.fromarray(pixels)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(1 + rng.uniform(-_COLOUR, _COLOUR))
    if rng.random() < _GREY:
        image = image.convert("L").convert("RGB")
    return np.asarray(image)
