"""Scenes made up of cut-outs, with exact masks, of photos that come inside installed packages."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from tests.photos import photo
from vesearch import masks
from vesearch.records import Bool

SCENES = 32
_SIDES = ((480, 360), (360, 480), (420, 420))  # px: width and height of a scene
_COUNTS = (2, 5)  # cut-outs in a scene
_LONGEST = (0.2, 0.5)  # of the scene's longest side: that of a cut-out
_TURN = 25  # degrees, at most
_BRIGHTNESS, _COLOUR = (0.4, 1.4), (0.1, 1.3)
_BLUR, _NOISE = (0.0, 1.6), (0.0, 14.0)  # px, and grey levels
_LEAST_VISIBLE = 0.5  # of a thing, when others lie on it
_LEAST_SHARE = 0.01  # of the scene: what detect.min_area ignores
_FINER = 4  # outlines are drawn so many times larger: soft edges

Points = tuple[tuple[float, float], ...]


def _round(x: float, y: float, rx: float, ry: float) -> Points:
    """Return the outline of an ellipse."""
    turns = [2 * math.pi * i / 72 for i in range(72)]
    return tuple((x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns)


def _points(text: str) -> Points:
    """Return what "x,y x,y …" says."""
    return tuple((float(x), float(y)) for x, y in (pair.split(",") for pair in text.split()))


@dataclass(frozen=True, slots=True)
class Cutout:
    """A thing in a photo. outline: around it, in the photo's pixels."""

    label: str
    photo: str
    outline: Points


# drawn by hand: what of the ground is within an outline belongs to the cut-out
CUTOUTS = (
    Cutout(
        "astronaut",
        "astronaut.png",
        _points(
            "233,15 267,23 293,50 301,87 293,120 273,133 257,173 293,207 305,240 333,260 348,293"
            " 360,347 313,380 287,413 275,460 277,511 67,511 40,493 23,460 27,400 30,347 40,287"
            " 57,260 113,207 120,177 147,155 183,148 175,127 160,113 155,80 160,50 193,25"
        ),
    ),
    Cutout(
        "helmet",
        "astronaut.png",
        _points(
            "277,460 287,413 313,377 353,353 393,343 433,350 467,373 490,413 500,453 508,480"
            " 506,511 277,511"
        ),
    ),
    Cutout(
        "shuttle",
        "astronaut.png",
        _points(
            "400,13 417,2 430,7 438,33 443,40 453,50 457,193 460,227 460,267 470,275 370,280"
            " 368,267 380,233 354,225 355,208 380,173 380,53 387,40 397,60"
        ),
    ),
    Cutout("mission patch", "astronaut.png", _round(171, 385, 37, 37)),
    Cutout(
        "cat",
        "chelsea.png",
        _points(
            "40,0 36,20 33,67 27,100 40,153 73,200 120,247 187,277 247,281 293,273 313,233 347,167"
            " 363,127 363,73 373,53 393,20 395,0"
        ),
    ),
    Cutout(
        "coffee",
        "coffee.png",
        _points(
            "77,220 83,173 107,120 143,83 183,67 220,30 280,18 337,27 381,52 403,70 423,70 423,113"
            " 453,153 477,207 479,247 460,293 427,333 373,370 293,388 213,377 147,347 100,293"
        ),
    ),
    Cutout(
        "rocket", "rocket.jpg", _points("323,127 333,143 335,173 335,405 311,405 310,167 313,143")
    ),
    Cutout(
        "motorcycle",
        "motorcycle_left.png",
        _points(
            "105,205 98,240 122,250 120,300 130,350 165,395 215,405 270,380 325,375 328,435 345,437"
            " 347,385 420,380 465,350 478,300 508,290 508,330 530,380 560,425 610,449 660,443"
            " 686,410 682,370 650,310 640,290 600,268 575,262 548,190 558,160 582,140 580,120"
            " 555,122 530,98 495,95 470,120 435,108 405,122 360,160 350,192 290,193 240,165 165,158"
            " 150,147 138,160 150,200"
        ),
    ),
    Cutout(
        "motorcycle",
        "motorcycle_right.png",
        _points(
            "55,195 50,235 62,248 80,252 78,300 88,350 122,392 170,403 225,380 275,375 276,436"
            " 300,437 300,385 375,380 415,350 430,300 458,292 460,330 480,380 510,425 555,449"
            " 600,446 629,410 626,370 595,310 585,290 545,266 522,262 497,190 505,160 530,140"
            " 530,118 505,120 480,95 448,95 420,118 390,106 350,120 305,160 300,187 245,192 195,165"
            " 120,156 105,150 93,160 100,200"
        ),
    ),
    Cutout(
        "pagoda",
        "china.jpg",
        _points(
            "197,30 204,30 215,37 217,63 260,97 320,118 322,128 294,140 294,160 330,176 328,192"
            " 320,205 321,222 328,232 326,241 350,253 340,272 341,303 350,313 347,327 370,333"
            " 328,372 293,387 213,383 200,360 157,340 73,333 80,320 80,283 63,273 87,247 97,233"
            " 100,190 83,180 100,163 120,160 120,140 95,130 98,107 167,87 193,63 195,37"
        ),
    ),
    Cutout(
        "flower",
        "flower.jpg",
        _points(
            "170,220 175,177 190,140 210,115 253,97 313,84 363,93 407,117 430,153 446,210 433,260"
            " 413,313 383,343 333,358 287,358 230,337 197,303 173,257"
        ),
    ),
    Cutout("eye", "retina.jpg", _round(705, 705, 690, 690)),
    Cutout("colours", "color.png", _round(186, 185, 150, 150)),
    Cutout("badge", "logo.png", _round(250, 250, 236, 236)),
    Cutout("coin of two men", "coins.png", _round(335, 44, 29, 27)),
    Cutout("large coin", "coins.png", _round(347, 187, 32, 30)),
    Cutout("worn coin", "coins.png", _round(46, 261, 27, 27)),
    Cutout("bearded coin", "coins.png", _round(213, 193, 23, 23)),
    Cutout("wide coin", "coins.png", _round(173, 261, 28, 25)),
    Cutout("scarred coin", "coins.png", _round(272, 119, 24, 23)),
    Cutout("coin of a throne", "coins.png", _round(216, 51, 23, 21)),
)
# photo and box (x0, y0, x1, y1); colours of dark and light where it is grey
_GROUNDS: tuple[tuple[str, tuple[int, int, int, int], tuple[str, str] | None], ...] = (
    ("china.jpg", (330, 0, 640, 200), None),  # sky
    ("china.jpg", (340, 215, 550, 300), None),  # a lake
    ("china.jpg", (340, 290, 560, 420), None),  # bushes
    ("rocket.jpg", (90, 0, 300, 190), None),  # evening
    ("coffee.png", (480, 0, 600, 400), None),  # wood
    ("flower.jpg", (440, 0, 640, 380), None),  # leaves, out of focus
    ("motorcycle_left.png", (0, 410, 300, 500), None),  # a floor
    ("motorcycle_left.png", (530, 20, 700, 270), None),  # a shelf
    ("ihc.png", (0, 0, 512, 512), None),  # a tissue
    ("hubble_deep_field.jpg", (0, 0, 500, 500), None),  # stars
    ("grass.png", (0, 0, 512, 512), ("#1d2f12", "#b9cf86")),
    ("gravel.png", (0, 0, 512, 512), ("#1c1a18", "#cfc6ba")),
    ("brick.png", (0, 0, 512, 512), ("#3b1d16", "#e0b9a4")),
)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture and what was put into it: labels, and the (n, h, w) masks of what one sees."""

    picture: Image.Image
    labels: tuple[str, ...]
    masks: Bool


def make(count: int = SCENES, *, seed: int = 0) -> list[Scene]:
    """Return scenes in which every cut-out comes about equally often."""
    rng = np.random.default_rng(seed)
    queue: list[Cutout] = []
    scenes = []
    for number in range(count):
        ground = _ground(_SIDES[number % len(_SIDES)], number % len(_GROUNDS), rng)
        wanted = int(rng.integers(_COUNTS[0], _COUNTS[1] + 1))
        while len(queue) < wanted:
            queue += [CUTOUTS[i] for i in rng.permutation(len(CUTOUTS))]
        scenes.append(_scene(ground, [queue.pop(0) for _ in range(wanted)], rng))
    return scenes


def save(scenes: Sequence[Scene], folder: Path) -> tuple[Path, Path]:
    """Write pictures, COCO annotations and labels; return the latter two's paths."""
    images, annotations, labels = [], [], []
    for number, scene in enumerate(scenes, 1):
        name = f"{number:03}.png"
        scene.picture.save(folder / name)
        w, h = scene.picture.size
        images.append({"id": number, "file_name": name, "width": w, "height": h})
        counts = masks.encode(scene.masks)
        for label, mask, runs in zip(scene.labels, scene.masks, counts, strict=True):
            shape = {"size": [h, w], "counts": runs.decode()}
            annotations.append({"image_id": number, "segmentation": shape})
            labels.append([name, label, *masks.box_of(mask)])
    coco, table = folder / "instances.json", folder / "labels.csv"
    coco.write_text(json.dumps({"images": images, "annotations": annotations}))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "x0", "y0", "x1", "y1"], *labels])
    return coco, table


def _ground(size: tuple[int, int], number: int, rng: np.random.Generator) -> Image.Image:
    name, box, colours = _GROUNDS[number]
    part = _opened(name).crop(box)
    if colours:
        part = ImageOps.colorize(part.convert("L"), *colours)
    zoom = rng.uniform(0.6, 1.0)
    w, h = (max(8, round(side * zoom)) for side in part.size)
    left, top = int(rng.integers(part.width - w + 1)), int(rng.integers(part.height - h + 1))
    part = ImageOps.fit(part.crop((left, top, left + w, top + h)), size, Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        part = ImageOps.mirror(part)
    return part.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))


def _scene(ground: Image.Image, cutouts: Sequence[Cutout], rng: np.random.Generator) -> Scene:
    """Paste things, some over others; one for which there is no room is left out."""
    picture = ground.copy()
    labels, found = [], np.zeros((0, ground.height, ground.width), bool)
    whole: list[int] = []  # areas of the things before others were pasted on them
    for cutout in cutouts:
        thing = _changed(cutout, max(ground.size), rng)
        for _ in range(20):
            left, top = (
                int(rng.integers(0, max(1, outer - inner)))
                for outer, inner in zip(ground.size, thing.size, strict=True)
            )
            alpha = Image.new("L", ground.size)
            alpha.paste(thing.getchannel("A"), (left, top))
            mask = np.asarray(alpha) > 127
            seen, areas = np.concatenate([found & ~mask, mask[None]]), [*whole, mask.sum()]
            left_over = seen.sum((1, 2))
            least = np.maximum(_LEAST_SHARE * mask.size, np.multiply(_LEAST_VISIBLE, areas))
            if (left_over >= least).all():
                picture.paste(thing, (left, top), thing)
                labels.append(cutout.label)
                found, whole = seen, areas
                break
    return Scene(_taken(picture, rng), tuple(labels), found)


def _taken(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return what a bad camera makes of a picture: less sharp, with noise."""
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(*_BLUR)))
    noise = rng.uniform(*_NOISE) * rng.standard_normal((picture.height, picture.width, 3))
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def _changed(cutout: Cutout, side: int, rng: np.random.Generator) -> Image.Image:
    """Return a thing, transparent around it: scaled, mirrored, turned, lit otherwise."""
    source = _opened(cutout.photo)
    alpha = Image.new("L", (source.width * _FINER, source.height * _FINER))
    outline = [(x * _FINER, y * _FINER) for x, y in cutout.outline]
    ImageDraw.Draw(alpha).polygon(outline, fill=255)
    source.putalpha(alpha.resize(source.size, Image.Resampling.BOX))
    thing = source.crop(source.getchannel("A").getbbox())
    longest = side * float(np.exp(rng.uniform(*np.log(_LONGEST))))
    scale = longest / max(thing.size)
    thing = thing.resize(
        (round(thing.width * scale), round(thing.height * scale)),
        Image.Resampling.BICUBIC,
        reducing_gap=2.0,
    )
    if rng.random() < 0.5:
        thing = ImageOps.mirror(thing)
    thing = thing.rotate(rng.uniform(-_TURN, _TURN), Image.Resampling.BICUBIC, expand=True)
    thing = ImageEnhance.Color(thing).enhance(rng.uniform(*_COLOUR))
    return ImageEnhance.Brightness(thing).enhance(rng.uniform(*_BRIGHTNESS))


def _opened(name: str) -> Image.Image:
    with Image.open(photo(name)) as image:
        return image.convert("RGB")
