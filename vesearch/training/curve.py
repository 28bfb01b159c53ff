"""Keep a training run's losses, and what its snapshots reached, as tables, and draw them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vesearch.errors import MissingPackageError
from vesearch.system.files import atomic

_SMOOTH = 5  # entries of the log that are averaged


def check_installed() -> None:
    """Raise MissingPackageError unless there is matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as err:
        raise MissingPackageError(
            "training draws with matplotlib: pip install 'vesearch[train]'"
        ) from err


def append(table: Path, step: int, figures: Mapping[str, str]) -> None:
    """Add a row for a step to a table of a run; the first one makes it."""
    row = {"step": str(step), **figures}
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def cut(table: Path, step: int) -> None:
    """Leave out what comes after a step, of a run that goes on from there."""
    rows = _rows(table) if table.exists() else []
    kept = [row for row in rows if int(row["step"]) <= step]
    if len(kept) == len(rows):
        return
    with atomic(table) as temp, temp.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)


def draw(out: Path) -> None:
    """Write out/curve.png from out/log.csv and, where there is one, out/measured.csv."""
    from matplotlib.figure import Figure

    losses = columns_of(out / "log.csv")
    del losses["seconds"]
    panels = {"losses": losses}
    if (out / "measured.csv").exists():
        panels["held-out photos"] = columns_of(out / "measured.csv")
    figure = Figure(figsize=(10, 4.5 * len(panels)), layout="constrained")
    column = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axes, (title, curves) in zip(column, panels.items(), strict=True):
        steps = curves.pop("step")
        for name, values in curves.items():
            if name.startswith("loss_"):
                axes.plot(steps, _smoothed(values), label=name.removeprefix("loss_"))
            else:
                axes.plot(steps, values, marker="o", label=name)
        axes.set_title(title, loc="left", weight="bold")
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    column[-1].set_xlabel("steps")
    with atomic(out / "curve.png") as temp:
        figure.savefig(temp)


def columns_of(table: Path) -> dict[str, list[float]]:
    """Return a run's table by columns."""
    rows = _rows(table)
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _smoothed(values: list[float]) -> list[float]:
    return [float(np.mean(values[max(0, i - _SMOOTH + 1) : i + 1])) for i in range(len(values))]
