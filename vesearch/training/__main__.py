"""Train the built-in segmenter: python -m vesearch.training RECIPE.yaml --data DIR --out DIR."""

from __future__ import annotations

import argparse
from pathlib import Path

from vesearch.training import curve, recipe, segmenter

parser = argparse.ArgumentParser(prog="python -m vesearch.training", description=__doc__)
parser.add_argument("recipe", type=Path, help="such as pipelines/training/segmenter.yaml")
parser.add_argument("--data", type=Path, required=True, help="the folder of the recipe's sources")
parser.add_argument("--out", type=Path, required=True, help="of the run; the same one continues it")
parser.add_argument("--start", type=Path, help="weights of an earlier run to start from")
parser.add_argument("--device", default="auto")
options = parser.parse_args()
curve.check_installed()
wanted = recipe.read_recipe(options.recipe)
run = segmenter.Run(wanted, options.data, options.out, start=options.start, device=options.device)
run.train()
curve.draw(options.out)
