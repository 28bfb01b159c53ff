"""Draw a training run's losses, and what its snapshots reached, as a picture."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vesearch.drawing.paint import Type, text
from vesearch.drawing.picture import save_png
from vesearch.records import UInt8

_WIDTH, _HEIGHT, _MARGIN = 1100, 520, 70
_INK = (28, 31, 36)
_COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189))
_SMOOTH = 5  # entries of the log that are averaged


def draw(out: Path) -> None:
    """Write out/curve.png from out/log.csv and, where there is one, out/measured.csv."""
    losses = _columns(out / "log.csv")
    losses.pop("seconds", None)
    panels = [("losses", losses)]
    if (out / "measured.csv").exists():
        panels.append(("held-out photos", _columns(out / "measured.csv")))
    pages = [_panel(title, columns) for title, columns in panels]
    save_png(Image.fromarray(np.concatenate(pages)), out / "curve.png")


def _columns(path: Path) -> dict[str, list[float]]:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return {name: [float(row[i]) for row in rows[1:]] for i, name in enumerate(rows[0])}


def _panel(title: str, columns: dict[str, list[float]]) -> UInt8:
    """Return a chart of all columns over the first, which holds the steps."""
    (_, steps), *curves = columns.items()
    top = max(max(values) for _, values in curves) or 1.0
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    right, bottom = _WIDTH - _MARGIN - 190, _HEIGHT - _MARGIN
    for part in range(6):
        y = bottom - part / 5 * (bottom - _MARGIN)
        pen.line([(_MARGIN, y), (right, y)], fill=(225, 225, 225))
    for (_, values), colour in zip(curves, _COLOURS, strict=False):
        points = [
            (
                _MARGIN + step / steps[-1] * (right - _MARGIN),
                bottom - value / top * (bottom - _MARGIN),
            )
            for step, value in zip(steps, _smoothed(values), strict=True)
        ]
        pen.line(points, fill=colour, width=3)
    canvas = np.array(picture)
    text(canvas, (_MARGIN, 40), title, Type(22, _INK, True))
    for part in range(6):
        y = bottom - part / 5 * (bottom - _MARGIN)
        text(canvas, (14, round(y) + 5), f"{part / 5 * top:.2f}", Type(15, _INK, False))
    text(canvas, (_MARGIN, bottom + 30), "0", Type(15, _INK, False))
    text(canvas, (right - 80, bottom + 30), f"{steps[-1]:.0f} steps", Type(15, _INK, False))
    for row, ((name, _), colour) in enumerate(zip(curves, _COLOURS, strict=False)):
        place = (right + 14, _MARGIN + 24 * row + 10)
        text(canvas, place, name.removeprefix("loss_"), Type(16, colour, True))
    return canvas


def _smoothed(values: list[float]) -> list[float]:
    return [float(np.mean(values[max(0, i - _SMOOTH + 1) : i + 1])) for i in range(len(values))]
