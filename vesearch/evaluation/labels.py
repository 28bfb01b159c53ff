"""Read the labels that retrieval is measured with."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vesearch.errors import ConfigError
from vesearch.records import Float32
from vesearch.system.objects import is_url

DISTRACTOR = "__distractor__"  # in the collection, but never a query
_BOX = ("x0", "y0", "x1", "y1")
_MOST_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class Label:
    """One row: what a photo shows, and where.

    box_xyxy: pixels of the upright photo, ends exclusive; None: the photo's entity 1.
    """

    path: Path
    label: str
    box_xyxy: tuple[float, float, float, float] | None

    @property
    def box(self) -> Float32 | None:
        """The box as (4,) float32."""
        return None if self.box_xyxy is None else np.array(self.box_xyxy, np.float32)


def read_labels(path: Path) -> list[Label]:
    """Return the rows of a CSV file with the columns path, label and, where given, x0, y0, x1, y1.

    Paths are relative to the file. Raises ConfigError naming file and line.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: over {_MOST_BYTES} bytes")
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = {"path", "label"} - set(rows.fieldnames or ())
            if missing:
                raise ConfigError(f"{path}: has no column {min(missing)}")
            found = [_label(row, path, rows.line_num) for row in rows]
    except OSError as err:
        raise ConfigError(f"{path}: cannot be read: {err.strerror}") from err
    except (UnicodeDecodeError, csv.Error) as err:
        raise ConfigError(f"{path}: no CSV file: {err}") from err
    if all(row.label == DISTRACTOR for row in found):
        raise ConfigError(f"{path}: labels nothing to ask for")
    return found


def _beside(path: Path, photo: str) -> Path:
    return Path(photo) if is_url(photo) else path.parent / photo


def _label(row: Mapping[str, str | None], path: Path, line: int) -> Label:
    photo, label = row["path"], row["label"]
    if not photo or not label:
        raise ConfigError(f"{path}, line {line}: path and label must be given")
    cells = [(row.get(name) or "").strip() for name in _BOX]
    if not any(cells):
        return Label(_beside(path, photo), label, None)
    try:
        x0, y0, x1, y1 = map(float, cells)
    except ValueError as err:
        raise ConfigError(f"{path}, line {line}: a box needs four numbers, got {cells}") from err
    if not (np.isfinite([x0, y0, x1, y1]).all() and max(x0, 0) < x1 and max(y0, 0) < y1):
        raise ConfigError(f"{path}, line {line}: the box {cells} is empty or outside the photo")
    return Label(_beside(path, photo), label, (x0, y0, x1, y1))
