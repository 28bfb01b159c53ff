"""The command line of `vesearch evaluate`: masks, retrieval."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vesearch.cli.options import JSON, SKIPPED, Common, with_options
from vesearch.cli.tables import table
from vesearch.system.printable import printable

if TYPE_CHECKING:  # imported on use
    from vesearch.evaluation.calibration import Reliability
    from vesearch.evaluation.retrieval import Figures, Query, Retrieval
    from vesearch.records import Skipped


@click.group()
def evaluate() -> None:
    """Measure on labelled photos of your own how good the results are.

    \b
    vesearch evaluate masks instances.json photos/
    vesearch evaluate retrieval labels.csv
    """


@evaluate.command()
@click.argument("annotations", type=click.Path(path_type=Path), metavar="ANNOTATIONS.json")
@click.argument("folder", type=click.Path(path_type=Path), metavar="IMAGES")
@JSON
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
        "AR@20_small": found.ar20_small,
        "seconds_per_image": found.seconds_per_image,
    }
    if as_json:
        counts = {"photos": found.photos, "objects": found.objects}
        skipped = [asdict(skip) for skip in found.skipped]
        click.echo(json.dumps({**_known(figures), **counts, "skipped": skipped}))
    else:
        click.echo(f"{found.objects} objects in {found.photos} photos")
        rows = [(name.replace("_", " "), f"{value:.3f}") for name, value in figures.items()]
        click.echo(table(["", ">"], rows, indent=2))
    _end(found.skipped)


@evaluate.command()
@click.argument("labels", type=click.Path(path_type=Path), metavar="LABELS.csv")
@JSON
@click.option("--out", type=click.Path(path_type=Path), metavar="X.png", help="Draw the worst.")
@click.option("--force", is_flag=True, help="Draw over X.png even where vesearch did not draw it.")
@with_options
def retrieval(common: Common, labels: Path, as_json: bool, out: Path | None, force: bool) -> None:
    """Ask for every entity of LABELS among its photos, and count what is found.

    \b
    vesearch evaluate retrieval labels.csv --out worst.png

    LABELS has the columns path, label and, where you know them, x0, y0, x1, y1: the box of what is
    asked for, else the photo's entity 1. A hit is another photo with the label. Photos with the
    label __distractor__ are never asked for. No store is needed.
    """
    from vesearch.drawing import picture
    from vesearch.evaluation import labels as tables
    from vesearch.evaluation import retrieval
    from vesearch.store.remote import opened

    config = common.load()
    if out is not None:
        asked = [labels, *(row.path for row in tables.read_labels(labels))]
        picture.check_targets([out], asked=asked, store=opened(config.run.store), force=force)
    found = retrieval.evaluate(config, labels)
    if out is not None:
        from vesearch.evaluation import sheet
        from vesearch.job import Job

        picture.save_picture(sheet.draw(found.queries, Job(config).decoders), out)
    click.echo(json.dumps(_plain(found)) if as_json else _text(found))
    _end(found.skipped)


def _known(figures: dict[str, Any]) -> dict[str, Any]:
    """Return figures with None for NaN, which JSON has not: where there is nothing to measure."""
    return {name: None if value != value else value for name, value in figures.items()}


def _end(skipped: Sequence[Skipped]) -> None:
    """Tell of what was skipped, by the exit code too."""
    for skip in skipped:
        click.echo(printable(f"skipped: {skip.path}: {skip.error}"), err=True)
    if skipped:
        sys.exit(SKIPPED)


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        "mAP": figures.mean_ap,
        **dict(zip(("recall@1", "recall@5", "recall@10"), figures.recall, strict=True)),
        "precision@10": figures.precision10,
        "interval": list(figures.interval),
    }


def _by_label(queries: Sequence[Query]) -> list[dict[str, Any]]:
    """Return a row per label, the worst first."""
    groups: dict[str, list[Query]] = {}
    for query in queries:
        groups.setdefault(query.label.label, []).append(query)
    rows = [
        {
            "label": label,
            "queries": len(own),
            "mAP": sum(q.ap for q in own) / len(own),
            "recall@1": sum(q.recall1 for q in own) / len(own),
        }
        for label, own in groups.items()
    ]
    return sorted(rows, key=lambda row: float(str(row["mAP"])))


def _plain(found: Retrieval) -> dict[str, Any]:
    return {
        **_figures(found.figures),
        "baselines": {
            "whole_images": _figures(found.whole_images),
            "no_pca": _figures(found.no_pca),
        },
        "confidence": _known(asdict(found.reliability)),
        "labels": _by_label(found.queries),
        "queries": len(found.queries),
        "queries_left_out": found.left_out,
        "photos": found.photos,
        "entities": found.entities,
        "images_per_second": found.images_per_second,
        "skipped": [asdict(skip) for skip in found.skipped],
    }


def _text(found: Retrieval) -> str:
    left = f" ({found.left_out} left out: no other photo of theirs)" if found.left_out else ""
    head = (
        f"{len(found.queries)} queries{left} among {found.photos} photos, "
        f"{found.entities} entities, {found.images_per_second:.1f} images/s"
    )
    rows = []
    for name, one in (
        ("entities", found.figures),
        ("whole images", found.whole_images),
        ("without PCA", found.no_pca),
    ):
        low, high = one.interval
        rest = (f"{value:.3f}" for value in (*one.recall, one.precision10))
        rows.append((name, f"{one.mean_ap:.3f}", f"{low:.3f} to {high:.3f}", *rest))
    figures = table(["", ">mAP", "95 % interval", ">R@1", ">R@5", ">R@10", ">P@10"], rows)
    labels = [
        (row["label"], f"{row['queries']}", f"{row['mAP']:.3f}", f"{row['recall@1']:.3f}")
        for row in _by_label(found.queries)
    ]
    by_label = table(["label", ">queries", ">mAP", ">R@1"], labels)
    return f"{head}\n{figures}\n{_confidence(found.reliability)}\n\n{by_label}"


def _confidence(worth: Reliability) -> str:
    return (
        f"confidence: AUC {worth.auc:.2f}, calibration error {worth.error:.2f}; from 0.5 on "
        f"{worth.right:.0%} of the queries show a right match, "
        f"and {worth.wrong:.0%} show something where nothing is right"
    )
