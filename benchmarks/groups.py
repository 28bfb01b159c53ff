"""Measure how well the same thing is grouped, or time the grouping of made-up vectors.

.venv/bin/python benchmarks/groups.py labels.csv --store STORE
.venv/bin/python benchmarks/groups.py --entities 100000

The store holds the photos of the labels. A pair of a group is right where both have one label. With
boxes, pairs of entities that lie on a labelled box count; without, pairs of photos.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from vesearch.config import load_config
from vesearch.evaluation.labels import Label, read_labels
from vesearch.groups import things
from vesearch.groups.columns import Columns, columns_of
from vesearch.groups.finding import opened
from vesearch.groups.frequent import frequent_things
from vesearch.groups.linkage import linked
from vesearch.groups.neighbours import neighbours
from vesearch.groups.places import shared
from vesearch.indexes import INDEXES
from vesearch.job import Job
from vesearch.projection import Projection
from vesearch.records import Int64
from vesearch.store.builds import Opened
from vesearch.store.rows import RANKS
from vesearch.store.snapshot import Snapshot

LINKS, TOGETHER = (0.5, 0.7, 0.85), (0.0, 0.5, 0.7, 0.85)
ON_BOX = 0.5  # IoU
Item = tuple[int, int]  # an image, and the rank of its entity; -1: the photo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path, nargs="?", metavar="LABELS.csv")
    parser.add_argument("--store", metavar="STORE")
    parser.add_argument("--entities", type=int, metavar="N", help="time so many made-up vectors")
    parser.add_argument("--index", default="ngt")
    options = parser.parse_args()
    if options.entities:
        spend(options.entities, options.index)
    else:
        job = Job(load_config(flags={"run.store": options.store}))
        judge(opened(job), read_labels(options.labels))


def judge(snapshot: Snapshot, labels: Sequence[Label]) -> None:
    """Print precision and recall of pairs: of links so sure, and of means of groups so sure."""
    columns, build = columns_of(snapshot.catalog), snapshot.build
    of = labelled(snapshot, columns, labels)
    counts = things.wanted(columns, columns.image_ids)
    right = {(a, b) for a, b in pairs_of(of) if of[a] == of[b]}
    print("| links from | groups from | groups | pairs | precision | recall |")
    print(f"|{'---|' * 6}")
    for link in LINKS:
        least = things.least_similarity(build, link)
        found = neighbours(
            build.index, columns.ids[counts], 24, least=least, told=lambda _: None, most=96
        )
        pairs, similarities = things._pairs(found, columns, counts)
        used, places = np.unique(pairs, return_inverse=True)
        vectors = build.index.vectors(columns.ids[used])
        for together in (mean for mean in TOGETHER if mean <= link):
            mean = things.least_similarity(build, together) if together else -1.0
            groups = linked(places.reshape(-1, 2).astype(np.int32), similarities, vectors, mean)
            told = set[tuple[Item, Item]]()
            for group in groups:
                ids = columns.ids[used[group]].tolist()
                told |= set(pairs_of({divmod(i, RANKS) for i in ids} & of.keys()))
                told |= set(pairs_of({(i // RANKS, -1) for i in ids} & of.keys()))
            hits = len(told & right)
            share = f"{hits / max(len(told), 1):.3f} | {hits / len(right):.3f}"
            print(f"| {link} | {together or 'any'} | {len(groups)} | {len(told)} | {share} |")


def pairs_of(items: Iterable[Item]) -> Iterator[tuple[Item, Item]]:
    """Yield all pairs of items of different photos."""
    for one, other in combinations(sorted(items), 2):
        if one[0] != other[0]:
            yield one, other


def labelled(snapshot: Snapshot, columns: Columns, labels: Sequence[Label]) -> dict[Item, str]:
    """Return the labels by entity where they have boxes, else by photo."""
    of: dict[Item, str] = {}
    for label in labels:
        place = snapshot.catalog.place(os.fsencode(label.path.resolve()))
        image = None if place is None else snapshot.image(place.image_id)
        if image is None:
            continue
        if label.box is None:
            of[image.image_id, -1] = label.label
            continue
        rows = np.flatnonzero(columns.image_ids == image.image_id)
        sides = [image.shot.width, image.shot.height] * 2
        iou = shared(columns.boxes[rows], (label.box / sides).astype(np.float32))[0]
        if len(rows) and iou.max() >= ON_BOX:
            of[image.image_id, int(columns.ids[rows[iou.argmax()]]) % RANKS] = label.label
    return of


def spend(count: int, backend: str) -> None:
    """Print what grouping made-up vectors costs: seven a photo, some things in many photos."""
    rng, dim = np.random.default_rng(0), 128
    which = np.minimum((rng.pareto(1.0, count) * 50).astype(np.int64), count // 20 - 1)
    vectors = rng.standard_normal((count // 20, dim), np.float32)[which]
    spread = rng.uniform(0.2, 1.2, (count, 1)).astype(np.float32)
    vectors += rng.standard_normal((count, dim), np.float32) * spread
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    columns = made_up(count, rng)
    index = INDEXES.create(backend)
    index.build(columns.ids, vectors)
    none, one = np.zeros(0, np.float32), np.ones(1, np.float32)
    projection = Projection(one, one[None], one)
    build = Opened(index, none, projection, {"embedder": "builtin", "crowding": 0.48})
    del vectors

    def spent(name: str, began: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{name}: {time.perf_counter() - began:.1f} s, peak {peak:.0f} MB", flush=True)

    began = time.perf_counter()
    frequent_things(build, columns, 24)
    spent(f"browse, {count:,} entities, {backend}", began)
    began = time.perf_counter()
    things.same_things(build, columns, np.unique(columns.image_ids), 0.85, lambda _: None)
    spent(f"the same things, {count:,} entities, {backend}", began)


def made_up(count: int, rng: np.random.Generator) -> Columns:
    image = np.arange(count) // 7
    ids: Int64 = (image // 256 * 1_000_000 + image % 256) * RANKS + np.arange(count) % 7
    corner = rng.uniform(0, 0.6, (count, 2))
    boxes = np.concatenate([corner, corner + 0.3], axis=1).astype(np.float32)
    return Columns(ids, boxes, np.full(count, 0.09, np.float32), np.zeros(count, np.bool_))


if __name__ == "__main__":
    main()
