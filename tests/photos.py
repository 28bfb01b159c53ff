"""Real photos that come inside installed packages, for the demo and the tests."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

SCIKIT_IMAGE = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "motorcycle_right.png",
)
SCIKIT_LEARN = ("china.jpg", "flower.jpg")


def photo(name: str) -> Path:
    """Return where an installed package keeps a photo; scikit-image has more than are listed."""
    package, folder = (
        ("sklearn", "datasets/images") if name in SCIKIT_LEARN else ("skimage", "data")
    )
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{name}: pip install scikit-image scikit-learn")
    return Path(spec.origin).parent / folder / name


def collect(folder: Path) -> None:
    """Copy all photos into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SCIKIT_IMAGE + SCIKIT_LEARN:
        shutil.copyfile(photo(name), folder / name)


if __name__ == "__main__":
    collect(Path(sys.argv[1]))
