"""Measure how well a query finds the photos that show the same thing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vesearch import masks, projection
from vesearch.confidence import calibration_of, crowding
from vesearch.config import Config
from vesearch.describe import embed_entities, find_entities
from vesearch.errors import ConfigError, ImageError
from vesearch.evaluation import metrics
from vesearch.evaluation.calibration import Judged, Reliability, reliability
from vesearch.evaluation.labels import DISTRACTOR, Label, read_labels
from vesearch.job import Job
from vesearch.records import Bool, Entities, Float32, Frame, Int64, Skipped
from vesearch.system.ahead import batched
from vesearch.system.progress import bar

_JUDGED = 10  # matches of a query whose confidence is judged
_NEAREST = 60  # entities whose similarity says how crowded it is, and near-copies
_SHOWN = 5  # first matches that are kept of a query
_SAME_BOX = 0.5  # IoU of a labelled box with an entity's, above which it is that entity


@dataclass(frozen=True, slots=True)
class Figures:
    """How good the rankings of a set of queries are; shares in [0, 1].

    ap: of each query. recall: at 1, 5 and 10. interval: 95 %, of the mean average precision.
    """

    ap: tuple[float, ...]
    recall: tuple[float, float, float]
    precision10: float
    interval: tuple[float, float]

    @property
    def mean_ap(self) -> float:
        """The mean average precision."""
        return float(np.mean(self.ap))


@dataclass(frozen=True, slots=True)
class Query:
    """One query: its row, what it found first, and how well it did."""

    label: Label
    ap: float
    recall1: float
    first: tuple[Path, ...]
    hits: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What was measured. left_out: queries whose label no other photo has.

    judged, reliability: of the matches that queries find first, and what their confidence is worth.
    """

    figures: Figures
    whole_images: Figures
    no_pca: Figures
    queries: tuple[Query, ...]
    judged: Judged
    reliability: Reliability
    left_out: int
    photos: int
    entities: int
    images_per_second: float
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """The embeddings of a set of photos, as they are stored.

    entities: (n, dim), of the entities; photos: (n,), the photo of each. wholes: (p, dim), of whole
    photos. queries: (q, dim), of the labelled boxes and first entities; row i is that of asked[i].
    seconds: what detect, crop and embed took of the entities alone.
    """

    paths: tuple[Path, ...]
    digests: tuple[str, ...]
    entities: Float32
    photos: Int64
    wholes: Float32
    queries: Float32
    asked: tuple[Label, ...]
    seconds: float
    skipped: tuple[Skipped, ...]


def evaluate(config: Config, labels: Path) -> Retrieval:
    """Ask for every labelled entity of a CSV file among the other photos that it names.

    Raises ConfigError.
    """
    rows = read_labels(labels)
    gallery = collect(Job(config), rows)
    try:
        return measure(gallery, rows, config)
    except ConfigError as err:
        raise ConfigError(f"{labels}: {err}") from err


def collect(job: Job, rows: Sequence[Label]) -> Gallery:
    """Embed the entities of all labelled photos, the whole photos and the queries.

    Photos that cannot be read are skipped. Raises ConfigError when nothing remains.
    """
    collector = _Collector(job, rows)
    collector.collect()
    return collector.gallery()


def measure(gallery: Gallery, rows: Sequence[Label], config: Config) -> Retrieval:
    """Rank the photos of a gallery for each of its queries, and count the hits.

    Photos are ranked by their most similar entity, as `vesearch query` does; a hit is a photo with
    the query's label. The query's own photo, and copies of it, are left out. Raises ConfigError.
    """
    settings = config.projection
    relevant, own = _relevance(gallery, rows)
    kept = np.flatnonzero((relevant & ~own).any(1))
    if not len(kept):
        raise ConfigError("no label is on two different photos: there is nothing to find")
    asked = [gallery.asked[i] for i in kept]
    relevant, own, boxes = relevant[kept], own[kept], gallery.queries[kept]
    wholes = gallery.wholes[[gallery.paths.index(label.path) for label in asked]]
    every = np.arange(len(gallery.paths))

    def projected(queries: Float32, items: Float32) -> tuple[Float32, Float32]:
        fitted = projection.fit(items, dim=settings.dim, seed=settings.seed)
        return fitted.project(queries), fitted.project(items)

    def rankings(queries: Float32, items: Float32, photos: Int64) -> list[Int64]:
        return [_ranked(q, items, photos, o) for q, o in zip(queries, own, strict=True)]

    def figures(orders: list[Int64]) -> Figures:
        found = [hits[order] for hits, order in zip(relevant, orders, strict=True)]
        return _figures(found, [label.label for label in asked])

    vectors = projected(boxes, gallery.entities)
    plain = projection.normalised(boxes), projection.normalised(gallery.entities)
    orders = rankings(*vectors, gallery.photos)
    measured = figures(orders)
    judged = _judged(*vectors, gallery, relevant, own)
    calibration = calibration_of(config.embed.embedder)
    confidences = calibration.confidence(judged.similarities, judged.crowding)
    return Retrieval(
        figures=measured,
        whole_images=figures(rankings(*projected(wholes, gallery.wholes), every)),
        no_pca=figures(rankings(*plain, gallery.photos)),
        queries=tuple(
            Query(
                label=label,
                ap=ap,
                recall1=float(hits[order[0]]),
                first=tuple(gallery.paths[photo] for photo in order[:_SHOWN]),
                hits=tuple(hits[order[:_SHOWN]].tolist()),
            )
            for label, ap, hits, order in zip(asked, measured.ap, relevant, orders, strict=True)
        ),
        judged=judged,
        reliability=reliability(judged, confidences),
        left_out=len(gallery.asked) - len(kept),
        photos=len(gallery.paths),
        entities=len(gallery.entities),
        images_per_second=len(gallery.paths) / gallery.seconds,
        skipped=gallery.skipped,
    )


def _relevance(gallery: Gallery, rows: Sequence[Label]) -> tuple[Bool, Bool]:
    """Return (queries, photos): which are hits, and which are the query's own or copies of it."""
    shown: dict[Path, set[str]] = {}
    for row in rows:
        shown.setdefault(row.path, set()).add(row.label)
    digest_of = dict(zip(gallery.paths, gallery.digests, strict=True))
    shape = (len(gallery.asked), len(gallery.paths))
    hits = [[q.label in shown[path] for path in gallery.paths] for q in gallery.asked]
    own = [[digest_of[q.path] == digest for digest in gallery.digests] for q in gallery.asked]
    return np.array(hits, bool).reshape(shape), np.array(own, bool).reshape(shape)


def _ranked(query: Float32, items: Float32, photos: Int64, own: Bool) -> Int64:
    """Return the photos, but for the query's own, by their most similar item."""
    best = np.full(len(own), -np.inf, np.float32)
    np.maximum.at(best, photos, items @ query)
    order = np.argsort(-best, kind="stable")
    ranked: Int64 = order[~own[order]]
    return ranked


def _judged(
    queries: Float32, items: Float32, gallery: Gallery, relevant: Bool, own: Bool
) -> Judged:
    """Return the best matches of (q, k) queries among (n, k) vectors, one of each photo.

    They come twice: with what is right, and without.
    """
    photos, columns = gallery.photos, list[tuple[int, float, bool, bool]]()
    for number, query in enumerate(queries):
        best = np.full(len(own[number]), -np.inf, np.float32)
        np.maximum.at(best, photos, items @ query)
        for absent in (False, True):
            gone = own[number] | relevant[number] if absent else own[number]
            seen = np.where(gone, -np.inf, best)
            for photo in np.argsort(-seen, kind="stable")[:_JUDGED]:
                if np.isfinite(seen[photo]):
                    hit = bool(relevant[number, photo])
                    columns.append((number, float(seen[photo]), hit, absent))
    numbers, similarities, hits, absents = zip(*columns, strict=True)
    return Judged(
        queries=np.array(numbers, np.int64),
        similarities=np.array(similarities, np.float32),
        hits=np.array(hits, bool),
        absent=np.array(absents, bool),
        crowding=crowding(_nearest_elsewhere(items, photos), len(items)),
    )


def _nearest_elsewhere(items: Float32, photos: Int64) -> Float32:
    """Return how similar the nearest items of other photos are, (n, k), falling."""
    rows = []
    for item, photo in zip(items, photos, strict=True):
        similarities = np.where(photos == photo, np.nan, items @ item)
        rows.append(-np.sort(-similarities)[:_NEAREST])  # NaN comes last
    return np.array(rows, np.float32)


def _figures(found: Sequence[Bool], names: Sequence[str]) -> Figures:
    ap = [metrics.average_precision(hits) for hits in found]
    one, five, ten = (float(np.mean([metrics.recall_at(h, k) for h in found])) for k in (1, 5, 10))
    return Figures(
        ap=tuple(ap),
        recall=(one, five, ten),
        precision10=float(np.mean([metrics.precision_at(h, 10) for h in found])),
        interval=metrics.interval(np.array(ap, np.float32), names),
    )


class _Collector:
    """Embeds batch by batch, and takes the time."""

    def __init__(self, job: Job, rows: Sequence[Label]) -> None:
        self._job = job
        self._rows: dict[Path, list[Label]] = {}
        for row in rows:
            self._rows.setdefault(row.path, []).append(row)
        self._skipped: list[Skipped] = []
        self._seconds = 0.0  # of what an ingest does too
        self._photos: list[tuple[Path, str]] = []
        self._entities: list[Float32] = []
        self._wholes: list[Float32] = []
        self._queries: list[Float32] = []
        self._asked: list[Label] = []

    def collect(self) -> None:
        """Go through the photos; those that cannot be read are skipped."""
        with bar(
            "evaluate", total=len(self._rows), unit="img", waits_for="loading models"
        ) as progress:
            for batch in batched(self._rows, self._job.batch_size("detect")):
                frames: list[tuple[Path, Frame]] = []
                for path in batch:
                    try:
                        frames.append((path, self._job.decoders.read(path)))
                    except ImageError as err:
                        self._skipped.append(Skipped(str(path), err.status, str(err)))
                self._add(frames)
                progress.update(len(batch))

    def gallery(self) -> Gallery:
        """Return what was collected. Raises ConfigError when that is nothing."""
        counts = [len(part) for part in self._entities]
        if not sum(counts) or not self._queries:
            raise ConfigError("none of the labelled photos could be used")
        return Gallery(
            paths=tuple(path for path, _ in self._photos),
            digests=tuple(digest for _, digest in self._photos),
            entities=np.concatenate(self._entities),
            photos=np.repeat(np.arange(len(counts)), counts),
            wholes=np.concatenate(self._wholes),
            queries=np.concatenate(self._queries),
            asked=tuple(self._asked),
            seconds=self._seconds,
            skipped=tuple(self._skipped),
        )

    def _add(self, frames: Sequence[tuple[Path, Frame]]) -> None:
        began = time.perf_counter()
        found = find_entities(self._job.detector, [frame for _, frame in frames])
        embedded = [
            self._embedded(frame, entities)
            for (_, frame), entities in zip(frames, found, strict=True)
        ]
        self._seconds += time.perf_counter() - began
        for (path, frame), seen, own in zip(frames, found, embedded, strict=True):
            self._photos.append((path, frame.digest))
            self._entities.append(own)
            whole = np.array([[0, 0, frame.width, frame.height]], np.float32)
            self._wholes.append(self._embedded(frame, _filled(whole, frame)))
            for row in self._rows[path]:
                if row.label != DISTRACTOR and (row.box is not None or len(own)):
                    self._asked.append(row)
                    self._queries.append(self._query(frame, row, seen, own))

    def _query(self, frame: Frame, row: Label, seen: Entities, own: Float32) -> Float32:
        """Return the (1, dim) embedding of a row's box, or of the photo's entity 1.

        A box that an entity fills is asked for with that entity's mask, as a user would.
        """
        if row.box is None:
            return own[:1]
        if row.box[0] >= frame.width or row.box[1] >= frame.height:
            size = f"{frame.width}x{frame.height}"
            raise ConfigError(f"{row.path}: the box {row.box_xyxy} is outside the photo of {size}")
        asked = _filled(row.box[None], frame)
        if len(own):
            overlap = _iou(row.box, seen.boxes_xyxy)
            best = int(overlap.argmax())
            if overlap[best] > _SAME_BOX:
                asked = replace(seen.take([best]), boxes_xyxy=row.box[None])
        return self._embedded(frame, asked)

    def _embedded(self, frame: Frame, entities: Entities) -> Float32:
        return embed_entities(self._job.embedder, frame, entities, self._job.config.crop)


def _filled(boxes_xyxy: Float32, frame: Frame) -> Entities:
    """Return boxes of a photo as entities."""
    return masks.of_boxes(boxes_xyxy, (frame.height, frame.width), frame.pixels.shape[:2])


def _iou(box: Float32, boxes: Float32) -> Float32:
    """Return the (n,) IoU of a box with (n, 4) others."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    both = np.clip(sides, 0, None).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (box[None], boxes)]
    iou: Float32 = both / np.maximum(areas[0] + areas[1] - both, 1e-6)
    return iou
