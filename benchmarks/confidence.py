"""Fit the confidence of matches, and say what it is worth on sets that it was not fitted on.

.venv/bin/python benchmarks/confidence.py animals.csv products.csv …

Run it whenever the embedding changes, and copy the coefficients to vesearch/confidence.py. Every
file counts the same; what is told of a file is measured with what was fitted on the others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from vesearch.config import load_config
from vesearch.evaluation import retrieval
from vesearch.evaluation.calibration import Judged, Reliability, fit, reliability
from vesearch.evaluation.labels import read_labels
from vesearch.job import Job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path, nargs="+", metavar="LABELS.csv")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--out", type=Path, metavar="X.png", help="draw the reliability diagram")
    options = parser.parse_args()
    config, sets, found = load_config(overrides=options.settings), {}, {}
    for path in options.labels:
        rows = read_labels(path)
        found[path.stem] = retrieval.measure(retrieval.collect(Job(config), rows), rows, config)
        sets[path.stem] = found[path.stem].judged
        print(f"{path.stem}: {len(sets[path.stem])} matches", file=sys.stderr, flush=True)
    head = "mAP | crowding | AUC | calibration error | right shown | wrong shown"
    print(f"| set | {head} |\n|---|{'---:|' * 6}")
    every: list[tuple[Judged, Any]] = []
    worth: list[Reliability] = []
    for name, judged in sets.items():
        others = [other for key, other in sets.items() if key != name] or [judged]
        sure = fit(others).confidence(judged.similarities, judged.crowding)
        every.append((judged, sure))
        worth.append(reliability(judged, sure))
        print(line(name, worth[-1], f"{found[name].figures.mean_ap:.3f}", f"{judged.crowding:.2f}"))
    together = pooled(every)
    mean_ap = np.mean([one.figures.mean_ap for one in found.values()])
    means = (np.mean([getattr(w, n) for w in worth]) for n in ("auc", "error", "right", "wrong"))
    mean = replace(together, **dict(zip(("auc", "error", "right", "wrong"), means, strict=True)))
    print(line("mean", mean, f"{mean_ap:.3f}", ""))
    print(line("all in one", together, "", ""))
    print(fit(list(sets.values())))
    if options.out:
        draw(together, options.out)


def pooled(every: Sequence[tuple[Judged, Any]]) -> Reliability:
    """Return what confidences are worth over all sets; of each as many rows are drawn."""
    rng, parts, numbers, first = np.random.default_rng(0), [], [], 0
    for judged, _ in every:
        rows = rng.integers(0, len(judged), 20_000)
        parts.append(rows)
        numbers.append(first + judged.queries[rows])
        first += int(judged.queries.max()) + 1

    def taken(name: str) -> Any:
        pairs = zip(every, parts, strict=True)
        return np.concatenate([getattr(judged, name)[rows] for (judged, _), rows in pairs])

    sure = np.concatenate([s[rows] for (_, s), rows in zip(every, parts, strict=True)])
    names = ("similarities", "hits", "absent")
    columns = {name: taken(name) for name in names}
    return reliability(Judged(queries=np.concatenate(numbers), crowding=0, **columns), sure)


def line(name: str, worth: Reliability, mean_ap: str, crowding: str) -> str:
    shares = (worth.auc, worth.error, worth.right, worth.wrong)
    return f"| {name} | {mean_ap} | {crowding} | {' | '.join(f'{v:.3f}' for v in shares)} |"


def draw(worth: Reliability, out: Path) -> None:
    """Draw the share that is right over the confidence, each bin as large as it is frequent."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    mean, right, count = np.array([bin_ for bin_ in worth.diagram if bin_[2]]).T
    axes.plot([0, 1], [0, 1], color="0.75", zorder=0)
    axes.plot(mean, right, color="#0072bd")
    axes.scatter(mean, right, 20 + 600 * count / count.sum(), color="#0072bd")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share that is right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out)


if __name__ == "__main__":
    main()
