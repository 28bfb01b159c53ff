"""Make anew what is wrong with a store, and only that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from vesearch.care.check import TABLES, find_problems
from vesearch.care.problems import Problem
from vesearch.errors import (
    CatalogDamagedError,
    StoreDamagedError,
    StoreError,
    StoreMissingError,
)
from vesearch.job import Job
from vesearch.records import Shot
from vesearch.stages import build_index, crop, detect, embed, fit_pca, project
from vesearch.store import builds, projections
from vesearch.store.catalog import Catalog
from vesearch.store.catalog_rows import KnownImage, Place
from vesearch.store.log import LogRow, ShardLog, image_rows, next_shard
from vesearch.store.rows import STRIDE, ImageRows
from vesearch.store.shards import Store
from vesearch.system.files import remove

log = logging.getLogger(__name__)

_ROUNDS = 3  # what is wrong may hide something else
# what has to be made anew with a table: rows of one are those of the other
_WITH = {
    "entities": ("vectors", "embeddings", "crops", "entities"),
    "crops": ("crops",),  # embeddings that are there were made of the same crops
    "embeddings": ("vectors", "embeddings"),
    "vectors": ("vectors",),
}


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found wrong, and what is left of it.

    files: how many were checked; lost: paths that were not there to repair from, whose entities
        are gone until they are ingested again.
    """

    files: int
    found: tuple[Problem, ...]
    left: tuple[Problem, ...]
    lost: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, or nothing any more."""
        return not self.left


def verify(job: Job, *, repair: bool = False) -> Verified:
    """Check a store and, where asked, repair it. Raises StoreMissingError where there is none."""
    if not any(job.store.has_any(table.KIND) for table in TABLES):
        job.store.settings()
    generation = job.store.generation()
    found = left = tuple(find_problems(job))
    files = sum(1 for path in job.store.path.rglob("*") if path.is_file())
    if not repair or not found:
        return Verified(files, found, left)
    with job.store.lock():
        if _of(found, "settings"):
            _mend_settings(job)
        before = _lost(job.store)
        if generation is None or generation != job.store.generation() or _of(found, "settings"):
            left = tuple(find_problems(job))  # somebody wrote meanwhile, or there is more to read
        for _ in range(_ROUNDS):
            if left:
                _mend(job, left)
                left = tuple(find_problems(job))
        return Verified(files, found, left, _lost(job.store) - before)


def _of(problems: Sequence[Problem], kind: str) -> bool:
    return any(problem.kind == kind for problem in problems)


def _lost(store: Store) -> int:
    try:
        # as it is: what a damaged log is restored from must not learn from it first
        kept = Catalog.kept(store)
        return 0 if kept is None else sum(place.status == "lost" for _, place in kept.places())
    except StoreError:
        return 0


def _mend_settings(job: Job) -> None:
    """Write store.json anew, if the settings given now are those of the tables."""
    for kind, fingerprint in job.fingerprints.items():
        for shard in job.store.shards(kind):
            if job.store.fingerprint(job.store.shard_path(kind, shard)) != fingerprint:
                raise StoreDamagedError(
                    f"{job.store.path}/store.json is damaged, and the store was made with other "
                    "settings than these: add the --config and --set that it was made with"
                )
    remove(job.store.path / "store.json")
    job.store.remember(job.settings() | job.places())


def _mend(job: Job, problems: Sequence[Problem]) -> None:
    """Remove what is wrong and let the stages fill the gaps."""
    store, kinds = job.store, {problem.kind for problem in problems}
    fingerprint = job.recorded_fingerprints()[ImageRows.KIND]
    for problem in problems:
        if problem.shard is not None and problem.kind == ImageRows.KIND:
            _mend_log(store, problem.shard, fingerprint)
        elif problem.shard is not None:
            for kind in _WITH[problem.kind]:
                store.drop(kind, problem.shard)
    if ImageRows.KIND in kinds:
        _let_go_of_strangers(store, fingerprint)
    Catalog.forget_kept(store)
    job.open_for_writing()
    detect.detect_pending(job)
    crop.crop_pending(job)
    embed.embed_pending(job)
    Catalog.of(store)  # and it is kept
    searchable = projections.path_of(store).exists() or (store.path / "index").exists()
    if searchable and kinds != {"catalog"}:
        _mend_index(job, kinds)


def _mend_index(job: Job, kinds: set[str]) -> None:
    """Restore the projection from the index, or fit it anew; bring the index up to date."""
    if "projection" in kinds:
        remove(projections.path_of(job.store))
        try:
            kept = builds.current(job.store) / "projection.h5"
            projections.copy(job.store, kept, projections.path_of(job.store))
        except StoreError:
            log.info("the projection is fitted anew")
    if "index" in kinds:
        remove(job.store.path / "index" / "current")
    try:
        fit_pca.fit_projection(job)
        project.project_pending(job)
        build_index.update_index(job)
    except StoreMissingError:  # no entities are left
        builds.drop_all(job.store)


def _mend_log(store: Store, shard: int, fingerprint: str) -> None:
    """Restore a shard of the log from what was kept of it; else let go of its images.

    These are found anew, under other ids, by the next ingest of their folders.
    """
    rows = _restored(store, shard)
    if rows is not None:
        store.write(shard, rows, fingerprint)
        return
    for kind in _WITH["entities"]:
        store.drop(kind, shard)
    # empty, it keeps the number from being used twice
    store.write(shard, image_rows([]), fingerprint)


def _let_go_of_strangers(store: Store, fingerprint: str) -> None:
    """Log paths as lost whose image no shard has: copies of what could not be restored."""
    catalog = Catalog.empty()
    for shard in store.shards(ImageRows.KIND):
        catalog.extend(shard, store.read(ImageRows, shard))
    lost = ShardLog(next_shard(store), catalog)
    for image_id, _ in catalog.strangers():
        for path in catalog.paths_of(image_id):
            lost.lose(path, None, "the shard that had its image was damaged")
    if len(lost):
        store.write(lost.shard, lost.rows(), fingerprint)


def _restored(store: Store, shard: int) -> ImageRows | None:
    """Return a lost shard of the log as far as the catalogue tells it."""
    try:
        kept = Catalog.kept(store)
        if kept is None or shard not in kept.shards():
            return None
        return _told_by(kept, store, shard)
    except CatalogDamagedError:
        return None


def _told_by(kept: Catalog, store: Store, shard: int) -> ImageRows:
    rest, damaged = _rest_of_log(store, shard, kept)
    own = [image.image_id for image in kept.images(shard) if image.digest is not None]
    # what the other shards do not tell; the rows of the shard's own images come first
    untold = {
        path: at
        for path, at in kept.places()
        if rest.place(path) != at and at.image_id // STRIDE not in damaged
    }
    entries: list[tuple[bytes, Place]] = []
    for image_id in own:
        paths = [path for path in sorted(kept.paths_of(image_id)) if path in untold]
        entries += [(path, untold.pop(path)) for path in paths]
        if not paths:
            entries.append((b"", Place(image_id, 0, 0, "ok", None)))
    entries += untold.items()
    return _rows(entries, {at.image_id: kept.image(at.image_id) for _, at in entries})


def _rest_of_log(store: Store, but: int, kept: Catalog) -> tuple[Catalog, set[int]]:
    """Fold the log without one shard; return it, and which others are missing or damaged.

    These are restored in their turn, with their own images.
    """
    rest, damaged = Catalog.empty(), set()
    known = {*kept.shards(), *store.shards("images")}
    for shard in sorted(known - {but}):
        try:
            rest.extend(shard, store.read(ImageRows, shard))
        except StoreError:
            damaged.add(shard)
    return rest, damaged


def _rows(
    entries: Sequence[tuple[bytes, Place]], images: dict[int, KnownImage | None]
) -> ImageRows:
    rows = []
    for path, place in entries:
        image = images[place.image_id]
        shot = Shot(0, 0) if image is None else image.shot
        rows.append(
            LogRow(
                path=path,
                status=place.status,
                image_id=place.image_id,
                size=place.size,
                mtime_ns=place.mtime_ns,
                width=shot.width,
                height=shot.height,
                taken=shot.taken,
                digest=None if image is None else image.digest,
                error=place.error,
            )
        )
    return image_rows(rows)
