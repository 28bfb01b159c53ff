"""Measure the default on made-up scenes; `make golden` writes the figures to golden.json.

That file keeps the tolerances too. With one and with two threads, and with AVX-512, AVX2 or SSE4.1
only, the figures were equal to four digits. What does change them, and by how much at most:

- the embedder in bfloat16: mAP 0.0006, similarities 0.0010;
- one thing in recall@1: 0.011, as there are 90 to ask for;
- pixels that the detector sees one grey level off, at random: AP 0.0014, AP50 0.0025, AR 0.0023,
  mAP 0.0067, similarities 0.0016;
- the graph's search range: its next steps are a recall of 0.965 and 0.988 where it is 0.980 now;
  one, two and four threads made graphs of the same recall.

A fault moves at least one figure further. Red and blue swapped in crops: similarities by 0.009;
crops a fifth beside their things: mAP by 0.009, without PCA by 0.016, similarities by 0.011; pixels
from 0 to 1 for the embedder: similarities by 0.014 and more; a projection that is not centred: mAP
by 0.011 and 0.009; masks 2 px too thin: AP by 0.015; scores reversed: AP by 0.30.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests import scenes
from vesearch.config import Config, load_config
from vesearch.evaluation import retrieval, segmentation
from vesearch.evaluation.labels import read_labels
from vesearch.indexes import INDEXES
from vesearch.job import Job
from vesearch.projection import normalised
from vesearch.records import Float32

GOLDEN = Path(__file__).with_suffix(".json")
_VECTORS, _QUERIES, _DIM, _CLUSTERS = 4000, 400, 128, 60


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: where cores are shared, several wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def config(folder: Path) -> Config:
    """Return the defaults; engine and precision are not left to the machine."""
    settings = ("run.device=cpu", "run.engine=torch", f"run.store={folder / 'store'}")
    settings += ("detect.precision=float32", "embed.precision=float32")
    return load_config(overrides=settings)


def measured() -> dict[str, float]:
    """Return all figures."""
    with tempfile.TemporaryDirectory() as name, one_thread():
        folder = Path(name)
        annotations, labels = scenes.save(scenes.make(), folder)
        found = retrieval_figures(gallery(labels), labels)
        return mask_figures(annotations) | found | index_figures()


def mask_figures(annotations: Path) -> dict[str, float]:
    """Return how well the entities match the exact masks of scenes."""
    folder = annotations.parent
    found = segmentation.evaluate(config(folder), annotations, folder)
    figures = {"AP": found.ap, "AP50": found.ap50, "AR@10": found.ar10, "AR@20": found.ar20}
    return {f"masks, {name}": value for name, value in figures.items()}


def gallery(labels: Path) -> retrieval.Gallery:
    """Return the embeddings of scenes."""
    return retrieval.collect(Job(config(labels.parent)), read_labels(labels))


def retrieval_figures(collected: retrieval.Gallery, labels: Path) -> dict[str, float]:
    """Return how well things are found again in other scenes."""
    settings = config(labels.parent)
    found = retrieval.measure(collected, read_labels(labels), settings)
    kinds = {
        "entities": found.figures,
        "whole images": found.whole_images,
        "entities without PCA": found.no_pca,
    }
    figures = {}
    for name, kind in kinds.items():
        figures[f"{name}, mAP"], figures[f"{name}, recall@1"] = kind.mean_ap, kind.recall[0]
    return figures | _similarities(collected)


def _similarities(collected: retrieval.Gallery) -> dict[str, float]:
    """Return mean cosines: of what is asked for to what is most similar elsewhere, and to all.

    A fault in all crops alike moves them where ranks hardly change.
    """
    own = [collected.paths.index(label.path) for label in collected.asked]
    elsewhere = np.array(own)[:, None] != collected.photos  # (queries, entities)
    cosines = normalised(collected.queries) @ normalised(collected.entities).T
    best = np.where(elsewhere, cosines, -1).max(1)
    return {
        "similarity, nearest": float(best.mean()),
        "similarity, all": float(cosines[elsewhere].mean()),
    }


def index_figures() -> dict[str, float]:
    """Return the share of each stranger's ten nearest that the graph finds."""
    vectors, queries = _clustered(_VECTORS, seed=0), _clustered(_QUERIES, seed=1)
    rows = []
    for name in ("exact", "ngt"):
        index = INDEXES.create(name)
        index.build(np.arange(_VECTORS), vectors)
        rows.append(index.search(queries, 10)[0].tolist())
    shares = [len(set(true) & set(found)) / 10 for true, found in zip(*rows, strict=True)]
    return {"ngt, recall@10": float(np.mean(shares))}


def _clustered(count: int, *, seed: int) -> Float32:
    centres = np.random.default_rng(99).standard_normal((_CLUSTERS, _DIM))
    rng = np.random.default_rng(seed)
    points = centres[rng.integers(_CLUSTERS, size=count)] + rng.standard_normal((count, _DIM))
    return normalised(points.astype(np.float32))


def read() -> dict[str, tuple[float, float]]:
    """Return each figure's golden value and its tolerance."""
    entries = json.loads(GOLDEN.read_text())
    return {name: (entry["value"], entry["tolerance"]) for name, entry in entries.items()}


def differences(figures: Mapping[str, float]) -> list[str]:
    """Return a line for each of these figures that left its tolerance, for worse or for better."""
    golden = read()
    return [
        f"{name}: {figure:.4f}, was {golden[name][0]} ± {golden[name][1]}"
        for name, figure in figures.items()
        if not abs(figure - golden[name][0]) <= golden[name][1]  # nan is no match
    ]


def write() -> None:
    """Measure anew; tolerances stay."""
    known = {name: tolerance for name, (_, tolerance) in read().items()}
    entries = {
        name: {"value": round(value, 4), "tolerance": known[name]}
        for name, value in measured().items()
    }
    GOLDEN.write_text(json.dumps(entries, indent=2) + "\n")


if __name__ == "__main__":
    write()
