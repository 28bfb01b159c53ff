"""Train the built-in segmenter: python -m vesearch.training RECIPE.yaml --data DIR --out DIR."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vesearch.training import curve, recipe, segmenter


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, with arguments other than the process's where they are given."""
    parser = argparse.ArgumentParser(prog="python -m vesearch.training", description=__doc__)
    parser.add_argument("recipe", type=Path, help="such as pipelines/training/segmenter.yaml")
    parser.add_argument("--data", type=Path, required=True, help="folder of the recipe's sources")
    parser.add_argument("--out", type=Path, required=True, help="the same one continues a run")
    parser.add_argument("--start", type=Path, help="weights of an earlier run to start from")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    curve.check_installed()  # now, not after hours
    wanted = recipe.read_recipe(given.recipe)
    segmenter.Run(wanted, given.data, given.out, start=given.start, device=given.device).train()
    curve.draw(given.out)


if __name__ == "__main__":
    main()
