"""Measure what each choice between photo and vector does to retrieval: one row changes one thing.

.venv/bin/python benchmarks/choices.py animals.csv products.csv …    (as `evaluate retrieval` takes)

Each row goes through the project's own functions. What a setting can change is changed by it; what
was tried and not kept is put in their place here. Every file counts the same, whatever its size.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageFilter

sys.path.insert(0, str(Path(__file__).parent.parent))

from vesearch import describe, masks, projection
from vesearch.config import Config, CropSettings, load_config
from vesearch.detectors import Detector
from vesearch.embedders.builtin import Lite0
from vesearch.evaluation import retrieval
from vesearch.evaluation.labels import Label, read_labels
from vesearch.evaluation.metrics import average_precision
from vesearch.evaluation.retrieval import Gallery, Retrieval, collect, measure
from vesearch.job import Job
from vesearch.photos.files import digest_of
from vesearch.records import Crop, Entities, Float32, Frame, UInt8

RESAMPLES = 1000
GREY = (127, 127, 127)
SAME_BOX = 0.5  # IoU of a labelled box with an entity's, above which it is that entity


class Remembered:
    """A detector that looks at each photo once: the rows differ in what comes after it."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.seconds = detector, 0.0
        self.found: dict[str, Entities] = {}
        self.weights_digest = detector.weights_digest

    def detect(self, images: Sequence[UInt8]) -> list[Entities]:
        keys = [digest_of(pixels.tobytes()) for pixels in images]
        new = [i for i, key in enumerate(keys) if key not in self.found]
        began = time.perf_counter()
        made = self.detector.detect([images[i] for i in new])
        self.seconds += time.perf_counter() - began
        self.found |= {keys[i]: one for i, one in zip(new, made, strict=True)}
        return [self.found[key] for key in keys]


# ------------------------------------------------------------------------------------- crops


def without_background(blurred: bool, remembered: Remembered) -> Callable[..., list[Crop]]:
    """Return a cut_boxes that leaves only what lies in the entity's mask as it is."""
    usual = describe.cut_crops

    def cut(frame: Frame, wanted: Entities, settings: CropSettings) -> list[Crop]:
        image = Image.fromarray(frame.pixels)
        behind = Image.new("RGB", image.size, GREY)
        if blurred:
            behind = image.filter(ImageFilter.GaussianBlur(max(image.size) / 30))
        entities = remembered.found[digest_of(frame.pixels.tobytes())]
        crops: list[Crop] = []
        for row, box in enumerate(wanted.boxes_xyxy):
            mask = mask_of(box, entities, frame)
            pixels = frame.pixels
            if mask is not None:
                soft = Image.fromarray(mask.astype(np.uint8) * 255)
                soft = soft.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.GaussianBlur(2))
                pixels = np.asarray(Image.composite(image, behind, soft))
            crops += usual(replace(frame, pixels=pixels), wanted.take([row]), settings)
        return crops

    return cut


def mask_of(box: Float32, entities: Entities, frame: Frame) -> Any:
    """Return the mask, at the frame's pixels, of the entity that a box is of; None for none."""
    scale = frame.width / entities.size_hw[1]
    boxes = entities.boxes_xyxy * scale
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    both = np.clip(high - low, 0, None).prod(1)
    iou = both / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - both)
    if iou.max(initial=0) < SAME_BOX:
        return None
    best = int(iou.argmax())
    runs = masks.resized(entities.masks[best], entities.mask_size_hw, frame.pixels.shape[:2])
    return masks.decoded(runs)


def stretched(frame: Frame, wanted: Entities, settings: CropSettings) -> list[Crop]:
    """Stretch what is cut out to a square, instead of putting grey beside it."""
    image, crops = Image.fromarray(frame.pixels), []
    side = (settings.size, settings.size)
    for box in wanted.boxes_xyxy * (frame.pixels.shape[1] / frame.width):
        region = describe.region_of(box, settings, image.size)
        buffer = io.BytesIO()
        cut = image.resize(side, Image.Resampling.BICUBIC, box=region, reducing_gap=2.0)
        cut.save(buffer, "JPEG", quality=settings.quality, subsampling=0)
        crops.append(Crop(buffer.getvalue()))
    return crops


# -------------------------------------------------------------------------------- embeddings


class Pooled(Lite0):
    """The built-in embedder with other features. pool: (320-d map, 1280-d map) -> (n, dim)."""

    dim = 0

    def __init__(self, pool: Callable[..., torch.Tensor], dim: int) -> None:
        super().__init__(precision="float32")
        self.pool, self.dim = pool, dim

    def _embed(self, crops: UInt8, covers: Float32 | None) -> Float32:
        net: Any = self._model
        parts = [np.empty((0, self.dim), np.float32)]
        for start in range(0, len(crops), 16):
            given = self._scaled(torch.from_numpy(crops[start : start + 16]).to(self._device))
            with torch.inference_mode():
                early = net.blocks(net.bn1(net.conv_stem(given)))
                parts.append(self.pool(early, net.bn2(net.conv_head(early))).cpu().numpy())
        return np.concatenate(parts)


class Mirrored(Lite0):
    """The mean of a crop's embedding and its mirror image's."""

    def _embed(self, crops: UInt8, covers: Float32 | None) -> Float32:
        both, mirrored = np.concatenate([crops, crops[:, :, ::-1]]), covers
        if covers is not None:
            mirrored = np.concatenate([covers, covers[:, :, ::-1]])
        found = super()._embed(both, mirrored)
        return found[: len(crops)] + found[len(crops) :]


def average(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


def gem(x: torch.Tensor) -> torch.Tensor:
    """Generalised mean, p = 3: Radenović et al. 1711.02512."""
    return x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)


def both_layers(early: torch.Tensor, late: torch.Tensor) -> torch.Tensor:
    parts = [torch.nn.functional.normalize(average(x)) for x in (early, late)]
    return torch.cat(parts, 1)


# -------------------------------------------------------------------------------- projections


def projected(
    items: Float32,
    queries: Float32,
    dim: int,
    *,
    unit: bool = True,
    whiten: Callable[[Any], Any] = np.ones_like,
    similarity: str = "cosine",
) -> tuple[Any, Any]:
    """Return items and queries so projected that their dot product is the similarity.

    unit: L2-normalise embeddings first; whiten: variances -> what the dimensions are multiplied by.
    """
    from sklearn.decomposition import PCA

    if unit:
        items, queries = projection.normalised(items), projection.normalised(queries)
    pca = PCA(min(dim, len(items) - 1, items.shape[1]), random_state=0).fit(items)
    items, queries = (pca.transform(x) * whiten(pca.explained_variance_) for x in (items, queries))
    if similarity == "cosine":
        return projection.normalised(items), projection.normalised(queries)
    if similarity == "euclidean":  # |q - x|^2 = |q|^2 - 2 (q x - |x|^2 / 2)
        items = np.column_stack([items, -0.5 * (items**2).sum(1)])
        queries = np.column_stack([queries, np.ones(len(queries))])
    return items, queries


def full(variance: Any) -> Any:
    return 1 / np.sqrt(variance)


def shrunk(variance: Any) -> Any:
    """Whitening that leaves weak dimensions weak: to each variance the mean is added."""
    return 1 / np.sqrt(variance + variance.mean())


# ---------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Row:
    """One choice. settings: as for --set; cut, embedder, project: in place of the project's."""

    name: str
    settings: tuple[str, ...] = ()
    cut: Callable[[Remembered], Any] | None = None
    embedder: Callable[[], Any] | None = None
    project: Callable[..., tuple[Any, Any]] | None = None

    @property
    def gallery(self) -> tuple[Any, ...]:
        """What the embeddings depend on."""
        ours = [text for text in self.settings if not text.startswith("projection.")]
        return (*ours, self.name if self.cut or self.embedder else "")


@dataclass(frozen=True)
class Measured:
    """The average precision of each query of each file, and the labels they have."""

    ap: tuple[Any, ...]
    labels: tuple[Any, ...]
    photos_per_s: float

    def means(self) -> list[float]:
        return [float(values.mean()) for values in self.ap]


def rows() -> list[Row]:
    tried = {
        "no L2 before PCA": partial(projected, unit=False),
        "whitened": partial(projected, whiten=full),
        "whitened, shrunk": partial(projected, whiten=shrunk),
        "Euclidean distance": partial(projected, similarity="euclidean"),
        "dot product": partial(projected, similarity="dot"),
    }
    return [
        Row("the defaults"),
        *(Row(f"`projection.dim={d}`", (f"projection.dim={d}",)) for d in (64, 96, 192, 256)),
        *(Row(name, project=project) for name, project in tried.items()),
        *(
            Row(f"`crop.context={c}`", (f"crop.context={c}",))
            for c in ("0.0", "0.05", "0.2", "0.3")
        ),
        Row("background blurred", cut=lambda remembered: without_background(True, remembered)),
        Row("background grey", cut=lambda remembered: without_background(False, remembered)),
        *(
            Row(f"`embed.mask_weight={w}`", (f"embed.mask_weight={w}",))
            for w in ("0.0", "0.25", "0.75", "1.0")
        ),
        *(Row(f"`crop.widen={w}`", (f"crop.widen={w}",)) for w in ("0.0", "1.0")),
        Row("stretched to the square", cut=lambda _: stretched),
        Row("stretched, `crop.widen=0.0`", ("crop.widen=0.0",), cut=lambda _: stretched),
        *(Row(f"`crop.size={s}`", (f"crop.size={s}",)) for s in (192, 256)),
        Row("GeM pooling, p = 3", embedder=lambda: Pooled(lambda _, late: gem(late), 1280)),
        Row("layer before, 320-d", embedder=lambda: Pooled(lambda early, _: average(early), 320)),
        Row("both layers, 1600-d", embedder=lambda: Pooled(both_layers, 1600)),
        Row("mean with the mirror image", embedder=Mirrored),
    ]


def galleries(
    row: Row, config: Config, sets: Sequence[list[Label]], detectors: Sequence[Remembered]
) -> Iterator[Gallery]:
    for labels, detector in zip(sets, detectors, strict=True):
        job = Job(config)
        job.detector = detector
        if row.embedder:
            job.embedder = row.embedder()
        # loading the weights is no photo's time
        job.embedder.embed(np.zeros((1, config.crop.size, config.crop.size, 3), np.uint8))
        before = detector.seconds
        with ExitStack() as stack:
            if row.cut:
                stack.enter_context(mock.patch.object(describe, "cut_crops", row.cut(detector)))
            gallery = collect(job, labels)
        # as if the photos had been looked at again
        again = detector.seconds if before else 0.0
        yield replace(gallery, seconds=gallery.seconds + again)


def measured(
    row: Row, sets: Sequence[list[Label]], made: Sequence[Gallery], config: Config
) -> tuple[Measured, list[Retrieval]]:
    found = [measure(g, labels, config) for g, labels in zip(made, sets, strict=True)]
    ap = [np.array(one.figures.ap) for one in found]
    if row.project:
        for i, (gallery, labels) in enumerate(zip(made, sets, strict=True)):
            relevant, own = retrieval._relevance(gallery, labels)
            kept = np.flatnonzero((relevant & ~own).any(1))
            items, queries = row.project(gallery.entities, gallery.queries, config.projection.dim)
            orders = [retrieval._ranked(queries[q], items, gallery.photos, own[q]) for q in kept]
            ap[i] = np.array(
                [average_precision(relevant[q][o]) for q, o in zip(kept, orders, strict=True)]
            )
    names = tuple(np.array([query.label.label for query in one.queries]) for one in found)
    seconds = sum(gallery.seconds for gallery in made)
    return Measured(tuple(ap), names, sum(one.photos for one in found) / seconds), found


def interval(values: Sequence[Any], names: Sequence[Any]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean over the files of their means.

    Labels are drawn, within each file, as `evaluate retrieval` draws them.
    """
    rng, drawn = np.random.default_rng(0), np.zeros(RESAMPLES)
    for one, labels in zip(values, names, strict=True):
        _, which = np.unique(labels, return_inverse=True)
        count = int(which.max()) + 1
        sums, sizes = np.bincount(which, one, count), np.bincount(which, minlength=count)
        picked = rng.integers(0, count, (RESAMPLES, count))
        drawn += sums[picked].sum(1) / sizes[picked].sum(1) / len(values)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def line(name: str, found: Measured, usual: Measured) -> str:
    low, high = interval(found.ap, found.labels)
    cells = [*(f"{mean:.3f}" for mean in found.means())]
    cells += [f"{np.mean(found.means()):.3f}", f"{low:.3f} to {high:.3f}"]
    if found is usual:
        cells += [""]
    else:
        gain = [a - b for a, b in zip(found.ap, usual.ap, strict=True)]
        low, high = interval(gain, found.labels)
        cells += [f"{np.mean([one.mean() for one in gain]):+.3f} ({low:+.3f} to {high:+.3f})"]
    return f"| {name} | {' | '.join(cells)} | {found.photos_per_s:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path, nargs="+", metavar="LABELS.csv")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="rows whose names hold one of")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    options = parser.parse_args()
    sets = [read_labels(path) for path in options.labels]
    names = [path.stem for path in options.labels]
    print(f"| setting | {' | '.join(names)} | mean mAP | 95 % interval | gain | photos/s |")
    print(f"|---|{'---:|' * (len(names) + 1)}---|---|---:|", flush=True)
    detectors = [Remembered(Job(load_config(overrides=options.settings)).detector) for _ in sets]
    kept: dict[tuple[Any, ...], list[Gallery]] = {}
    usual: Measured | None = None
    usual_row, *others = rows()
    if options.only:
        others = [row for row in others if any(text in row.name for text in options.only)]
    for row in (usual_row, *others):
        config = load_config(overrides=[*options.settings, *row.settings])
        if row.gallery not in kept:
            # the default's are used again, others are not
            kept = {k: v for k, v in kept.items() if k == usual_row.gallery}
            kept[row.gallery] = list(galleries(row, config, sets, detectors))
        found, full_results = measured(row, sets, kept[row.gallery], config)
        usual = usual or found
        print(line(row.name, found, usual), flush=True)
        if found is usual:
            for name, pick in (("no PCA", "no_pca"), ("whole photos", "whole_images")):
                ap = tuple(np.array(getattr(one, pick).ap) for one in full_results)
                print(line(name, replace(found, ap=ap), usual), flush=True)


if __name__ == "__main__":
    main()
