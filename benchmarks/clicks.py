"""Measure what it gains to say of the first matches which are right and which are wrong.

.venv/bin/python benchmarks/clicks.py animals.csv products.csv …    (as `evaluate retrieval` takes)

Every query is asked; the first matches are marked by their labels, and it is asked again with what
is right as positive and what is wrong as negative examples. What was marked is left out of both
rankings, so that the gain is in what was not seen yet. Weights are compared on one half of the
labels, and what they gain is told of the other.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from vesearch import projection
from vesearch.config import load_config
from vesearch.evaluation.labels import read_labels
from vesearch.evaluation.metrics import average_precision, interval
from vesearch.evaluation.retrieval import Gallery, _relevance, collect
from vesearch.job import Job
from vesearch.projection import normalised
from vesearch.records import Bool, Float32
from vesearch.search.nearest import refined

CLICKS = (1, 3)
WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 1.0)  # of what is wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path, nargs="+", metavar="LABELS.csv")
    options = parser.parse_args()
    config, halves = load_config(), ([], [])  # type: ignore[var-annotated]
    for path in options.labels:
        rows = read_labels(path)
        gallery = collect(Job(config), rows)
        fitted = projection.fit(gallery.entities, dim=config.projection.dim, seed=0)
        items, queries = fitted.project(gallery.entities), fitted.project(gallery.queries)
        relevant, own = _relevance(gallery, rows)
        names = sorted({label.label for label in gallery.asked})
        for half in (0, 1):
            kept = [i for i, q in enumerate(gallery.asked) if names.index(q.label) % 2 == half]
            gains = _gains(gallery, items, queries, relevant, own, kept)
            halves[half].append((path.stem, gains, [gallery.asked[i].label for i in kept]))
        print(f"{path.stem}: {len(queries)} queries", file=sys.stderr, flush=True)
    for half, what in enumerate(("for choosing", "told")):
        print(f"\n{what}\n\n| set | clicks | before | {' | '.join(f'{w:g}' for w in WEIGHTS)} |")
        print(f"|---|---:|---:|{'---:|' * len(WEIGHTS)}")
        for name, gains, labels in halves[half]:
            for clicks in CLICKS:
                print(_line(f"{name} | {clicks}", gains[clicks], labels))
        for clicks in CLICKS:
            means = np.mean([np.nanmean(gains[clicks], 0) for _, gains, _ in halves[half]], 0)
            print(f"| mean | {clicks} | {' | '.join(f'{v:.3f}' for v in means)} |")


def _gains(
    gallery: Gallery,
    items: Float32,
    queries: Float32,
    relevant: Bool,
    own: Bool,
    kept: Sequence[int],
) -> dict[int, Float32]:
    """Return for each number of clicks (q, 1 + weights) average precisions, NaN where none is."""
    found = {clicks: np.full((len(kept), 1 + len(WEIGHTS)), np.nan) for clicks in CLICKS}
    for row, i in enumerate(kept):
        query = queries[i : i + 1]
        order, best = _ranked(query, items, gallery, own[i])
        for clicks in CLICKS:
            marked = order[:clicks]
            rest = np.setdiff1d(np.flatnonzero(relevant[i] & ~own[i]), marked)
            if not len(rest):
                continue
            right = items[[best[photo] for photo in marked if relevant[i, photo]]]
            wrong = items[[best[photo] for photo in marked if not relevant[i, photo]]]
            gone = own[i].copy()
            gone[marked] = True
            vectors = [query, *(refined(np.concatenate([query, right]), wrong, w) for w in WEIGHTS)]
            for column, vector in enumerate(vectors):
                again, _ = _ranked(vector, items, gallery, gone)
                found[clicks][row, column] = average_precision(relevant[i][again])
    return {clicks: values.astype(np.float32) for clicks, values in found.items()}


def _ranked(
    query: Float32, items: Float32, gallery: Gallery, gone: Bool
) -> tuple[np.ndarray, dict[int, int]]:
    """Return the photos that are not gone, best first, and the best item of each."""
    similar = (items @ normalised(query).T)[:, 0]
    order = np.argsort(-similar, kind="stable")
    photos, first = np.unique(gallery.photos[order], return_index=True)
    by_rank = photos[np.argsort(first)]
    best = dict(zip(photos.tolist(), order[first].tolist(), strict=True))
    return by_rank[~gone[by_rank]], best


def _line(head: str, values: Float32, labels: Sequence[str]) -> str:
    there = ~np.isnan(values[:, 0])
    names = [label for label, is_there in zip(labels, there, strict=True) if is_there]
    means = values[there].mean(0)
    best = int(means[1:].argmax()) + 1
    low, high = interval(values[there, best] - values[there, 0], names)
    cells = " | ".join(f"{value:.3f}" for value in means)
    return f"| {head} | {cells} | best {low:+.3f} to {high:+.3f}"


if __name__ == "__main__":
    main()
