"""The command line of `vesearch evaluate`: masks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from vesearch.cli_options import SKIPPED, Common, with_options


@click.group()
def evaluate() -> None:
    """Measure on labelled photos of your own how good the results are.

    \b
    vesearch evaluate masks instances.json photos/
    """


@evaluate.command()
@click.argument("annotations", type=click.Path(path_type=Path), metavar="ANNOTATIONS.json")
@click.argument("folder", type=click.Path(path_type=Path), metavar="IMAGES")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@with_options
def masks(common: Common, annotations: Path, folder: Path, as_json: bool) -> None:
    """Compare the detector's masks with ANNOTATIONS (COCO's format) of the photos in IMAGES.

    \b
    vesearch evaluate masks instances.json photos/ --set detect.detector=cuts

    Classes do not count; crowds and objects below detect.min_area are ignored. No store is needed.
    """
    from vesearch.evaluation import segmentation

    found = segmentation.evaluate(common.load(), annotations, folder)
    figures = {
        "AP": found.ap,
        "AP50": found.ap50,
        "AR@10": found.ar10,
        "AR@20": found.ar20,
        "seconds_per_image": found.seconds_per_image,
    }
    if as_json:
        skipped = [{"path": s.path, "error": s.error} for s in found.skipped]
        counts = {"photos": found.photos, "objects": found.objects, "skipped": skipped}
        click.echo(json.dumps(figures | counts))
    else:
        click.echo(f"{found.objects} objects in {found.photos} photos")
        for name, value in figures.items():
            click.echo(f"  {name.replace('_', ' '):18} {value:.3f}")
    for skip in found.skipped:
        click.echo(f"skipped: {skip.error}", err=True)
    if found.skipped:
        sys.exit(SKIPPED)
