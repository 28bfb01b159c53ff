"""Read annotated photos: pixels, masks, and where their annotation says nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vesearch import masks
from vesearch.config import ImageSettings, RunSettings
from vesearch.photos import pool
from vesearch.records import UInt8

_HELD_OUT_OF = 5  # every fifth photo is for measuring


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    """One annotated photo.

    pixels: (h, w, 3) uint8 RGB. objects: run lengths of the masks. crowd: of regions that are
    neither objects nor background. complete: the run lengths of where every object is annotated,
    None for the whole photo; elsewhere nothing is known to be background.
    """

    name: str
    pixels: UInt8
    objects: tuple[dict[str, Any], ...]
    crowd: tuple[dict[str, Any], ...] = ()
    complete: dict[str, Any] | None = None


def is_held_out(image_id: int) -> bool:
    """Say whether the photo is for measuring, never for training."""
    return image_id % _HELD_OUT_OF == 0


def held_out(folder: Path) -> dict[str, Any]:
    """Return the annotation of a folder's photos that are for measuring, in COCO's format."""
    content: dict[str, Any] = json.loads((folder / "instances.json").read_text())
    content["images"] = [entry for entry in content["images"] if is_held_out(entry["id"])]
    kept = {entry["id"] for entry in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    return content


def read_photos(folder: Path, *, complete: str, held_out: bool) -> Iterator[Photo]:
    """Yield the photos of a folder with images/ and instances.json (COCO's format).

    complete: "photo": every object is annotated; "subject": the annotated parts make up one
    subject, itself an object, and nothing else is annotated; "nothing": some objects are missing.
    held_out: leave out every fifth photo.
    """
    content = json.loads((folder / "instances.json").read_text())
    decoders = pool.shared(ImageSettings(), RunSettings().workers)
    annotations: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        annotations.setdefault(annotation["image_id"], []).append(annotation)
    for entry in content["images"]:
        if held_out and is_held_out(entry["id"]):
            continue
        pixels = decoders.read(folder / "images" / entry["file_name"]).pixels
        size = (entry["height"], entry["width"])
        found = annotations.get(entry["id"], [])
        objects = [masks.from_coco(a["segmentation"], size) for a in found if not a.get("iscrowd")]
        crowd = tuple(masks.from_coco(a["segmentation"], size) for a in found if a.get("iscrowd"))
        known: dict[str, Any] | None = None
        if complete == "subject" and objects:
            known = masks.union(objects)
            objects.append(known)
        elif complete == "nothing":
            known = {"size": list(size), "counts": masks.encode(np.zeros((1, *size), bool))[0]}
        yield Photo(entry["file_name"], pixels, tuple(objects), crowd, known)
