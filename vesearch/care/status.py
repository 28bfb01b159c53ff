"""What a store holds, how far each stage is, and what was skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vesearch.errors import StoreMissingError
from vesearch.job import Job
from vesearch.stages.walking import Unread, unread_of
from vesearch.store import builds, projections, walks
from vesearch.store.catalog import Catalog
from vesearch.store.lock import Writer

_INTERNAL = ("format", "made_with", "made_of", "generation", "added", "removed", "unsampled")
_UPSTREAM = {"entities": "images", "crops": "entities", "embeddings": "crops"}


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a store.

    images: live images, copies counted once; entities: those of live images.
    writer: the process that writes to the store now, if one does, and how far it is.
    skipped: {"path", "status", "error"} of files that are no usable images.
    noted: {"path", "note"} of images of which something could not be read.
    left_out: how many photos and videos each rule left out when their folders were last walked.
    unread: photos and videos there of formats that are not read.
    others: how many files there are neither.
    stages: shards done and in all per table; projection and index: None before they are made.
    """

    store: str
    images: int
    paths: int
    entities: int
    writer: Writer | None
    skipped: list[dict[str, str | None]]
    noted: list[dict[str, str | None]]
    left_out: dict[str, int]
    unread: list[Unread]
    others: int
    stages: dict[str, dict[str, int]]
    projection: dict[str, int] | None
    index: dict[str, Any] | None
    settings: dict[str, Any]


def status_of(job: Job) -> Status:
    """Read a store's status; no model is needed. Raises StoreMissingError or StoreMismatchError."""
    job.open_without_models()
    catalog = Catalog.of(job.store)
    skipped: list[dict[str, str | None]] = [
        {"path": path, "status": place.status, "error": place.error}
        for path, place in catalog.skipped()
    ]
    images, paths, entities = catalog.count()
    passed = walks.passed_over(job.store)
    return Status(
        store=job.store.name,
        images=images,
        paths=paths,
        entities=entities,
        writer=job.store.writer(),
        skipped=skipped,
        noted=[{"path": path, "note": place.error} for path, place in catalog.noted()],
        left_out=dict(passed.left_out),
        unread=unread_of(passed),
        others=passed.others,
        stages=_stages(job),
        projection=_projection(job),
        index=_index(job),
        settings=job.store.settings(),
    )


def _stages(job: Job) -> dict[str, dict[str, int]]:
    total, fingerprints = len(job.store.shards("images")), job.recorded_fingerprints()
    stages, left = {"images": {"done": total, "shards": total}}, 0
    for kind, upstream in _UPSTREAM.items():
        left += len(job.pending(kind, upstream, fingerprint=fingerprints[kind]))
        stages[kind] = {"done": total - left, "shards": total}
    return stages


def _projection(job: Job) -> dict[str, int] | None:
    try:
        dim = len(projections.load(job.store).components)
        return {"dim": dim, "fitted_on": projections.fitted_on(job.store)}
    except StoreMissingError:
        return None


def _index(job: Job) -> dict[str, Any] | None:
    try:
        facts = builds.facts(job.store)
        told = {key: value for key, value in facts.items() if key not in _INTERNAL}
        trouble = builds.server_trouble(job.store)
        return told if trouble is None else {**told, "trouble": trouble}
    except StoreMissingError:
        return None
