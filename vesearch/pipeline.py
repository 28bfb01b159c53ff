"""Order the stages: the streaming ingest, the index build, and pipelines from files."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vesearch.config import Config, read_yaml_mapping, shipped
from vesearch.errors import ConfigError
from vesearch.executors import EXECUTORS, Executor
from vesearch.job import Job
from vesearch.networks import devices
from vesearch.records import Skipped
from vesearch.registry import did_you_mean
from vesearch.stages import (
    build_index,
    contents,
    crop,
    detect,
    embed,
    fit_pca,
    forget,
    project,
    scan,
)
from vesearch.stages.build_index import Outcome
from vesearch.stages.contents import Hashed
from vesearch.stages.walking import Found, find_files
from vesearch.store import builds, log, walks
from vesearch.store.catalog import Catalog
from vesearch.store.walks import Passed
from vesearch.system.progress import bar
from vesearch.system.threads import cores
from vesearch.work import Contents, Tables, Work

STAGES = ("scan", "detect", "crop", "embed", "fit-pca", "build-ngt")
_INGEST = STAGES[:4]
Sync = Literal["no", "careful", "forced"]


@dataclass(slots=True)
class Summary:
    """What a run did.

    copies: new files whose content is at another path, too; moved: paths that are gone, whose
        content is at another now; returned: files whose image was in the collection before.
    skipped: all unusable files below the folders, known ones too.
    noted: new images of which something could not be read, and what: they are kept.
    passed: how many files below the folders were passed over, and why.
    fitted: whether the projection was made now; built: what became of the index; None: not asked
        for.
    index: what the index's build recorded.
    behind: whether the index has yet to be built, or brought up to date; None: not looked at.
    """

    store: str
    images: int = 0
    entities: int = 0
    copies: int = 0
    moved: int = 0
    returned: int = 0
    unchanged: int = 0
    forgotten: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    noted: list[Skipped] = field(default_factory=list)
    passed: Passed = field(default_factory=Passed)
    fitted: bool | None = None
    built: Outcome | None = None
    index: dict[str, Any] | None = None
    behind: bool | None = None
    seconds: float = 0.0


def ingest(
    config: Config,
    folders: Sequence[Path],
    *,
    sync: Sync = "no",
    index: bool = False,
    executor: Executor | None = None,
) -> Summary:
    """Scan, detect, crop and embed what is new or changed below folders, each image decoded once.

    sync: whether files that vanished from the folders are forgotten: "careful" refuses when more
        than half of them would be, "forced" does not.
    index: whether the index is built, too.
    executor: where shards are described; None: as run.executor says.
    Raises VesearchError for folders without images, a locked store or other settings.
    """
    stages = STAGES if index else _INGEST
    return run_stages(config, stages, folders, sync=sync, executor=executor)


def run_stages(
    config: Config,
    stages: Sequence[str],
    folders: Sequence[Path],
    *,
    refit: bool = False,
    sync: Sync = "no",
    executor: Executor | None = None,
) -> Summary:
    """Run stages in their order over the store, holding its lock."""
    began, summary = time.perf_counter(), Summary(config.run.store)
    job = Job(config, at_once=cores())
    devices.validate(config.run.device)
    executor = executor or EXECUTORS.create(
        config.run.executor, offered={"workers": config.run.actors}
    )
    found = None
    if "scan" not in stages:
        job.store.settings()  # there must be a store
    elif not job.store.exists():
        # neither a mistyped folder nor weights that are not there must leave a store behind
        found = find_files(folders, Catalog.empty(), config.scan)
        job.settings()
    with job.store.lock():
        job.open_for_writing()
        if set(_INGEST) <= set(stages):
            found = _stream(job, folders, summary, sync, found, executor)
        else:
            found = _single_stages(job, stages, folders, summary, found)
        if "fit-pca" in stages:
            summary.fitted = fit_pca.fit_projection(job, refit=refit)
        if "build-ngt" in stages:
            project.project_pending(job)
            summary.built = build_index.update_index(job)
            summary.index = builds.facts(job.store)
        if found is not None:
            summary.behind = build_index.is_behind(job)
            summary.skipped = _skipped(Catalog.of(job.store), found)
            summary.passed = found.passed_over
            walks.note(job.store, found.walked, found.passed)
    summary.seconds = time.perf_counter() - began
    return summary


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline file: which stages to run, on which folders, with which config file."""

    stages: tuple[str, ...]
    folders: tuple[Path, ...]
    config: Path | None


def read_pipeline(path: Path, folders: Sequence[Path] = ()) -> Pipeline:
    """Read a pipeline file; its config lies beside it, and folders replace its own.

    Raises ConfigError.
    """
    path = shipped("pipelines", path)
    document = read_yaml_mapping(path)
    for key in document:
        if key not in ("config", "stages", "folders"):
            hint = did_you_mean(str(key), ("config", "stages", "folders"))
            raise ConfigError(f"{path}: unknown key {key}{hint}")
    stages = _texts(path, "stages", document.get("stages", []))
    for stage in stages:
        if stage not in STAGES:
            raise ConfigError(f"{path}: no stage {stage!r}{did_you_mean(stage, STAGES)}")
    if not stages or stages != tuple(stage for stage in STAGES if stage in stages):
        raise ConfigError(f"{path}: stages must be some of {', '.join(STAGES)}, in this order")
    named = tuple(folders) or tuple(map(Path, _texts(path, "folders", document.get("folders", []))))
    if "scan" in stages and not named:
        raise ConfigError(f"{path}: no folders; add 'folders:', or name them on the command line")
    config = document.get("config")
    if not isinstance(config, str | None):
        raise ConfigError(f"{path}: config must be the path of a YAML file")
    return Pipeline(stages, named, path.parent / config if config else None)


def _texts(path: Path, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{path}: {key} must be a list of names")
    return tuple(value)


def _single_stages(
    job: Job,
    stages: Sequence[str],
    folders: Sequence[Path],
    summary: Summary,
    found: Found | None,
) -> Found | None:
    if "scan" in stages:
        found = scan.scan_folders(job, folders, found)
        summary.unchanged = len(found.seen) - len(found.candidates)
    if "detect" in stages:
        summary.images = detect.detect_pending(job)
    if "crop" in stages:
        summary.entities = crop.crop_pending(job)
    if "embed" in stages:
        summary.entities = embed.embed_pending(job)
    return found


def _stream(
    job: Job,
    folders: Sequence[Path],
    summary: Summary,
    sync: Sync,
    found: Found | None,
    executor: Executor,
) -> Found:
    """Finish the shards that an interruption left open, then stream the new files.

    found: what a walk through the folders has found, of a store that was not there yet.
    """
    summary.images += detect.detect_pending(job)
    crop.crop_pending(job)
    summary.entities += embed.embed_pending(job)
    catalog = Catalog.of(job.store)
    found = found or find_files(folders, catalog, job.config.scan, may_be_empty=sync == "forced")
    if sync == "careful":
        forget.refuse_unmounted(folders, catalog, found)
    summary.unchanged = len(found.seen) - len(found.candidates)
    _describe_new(job, catalog, found, summary, executor)
    if sync != "no":  # after the new files: a file that was moved is known at its new path by now
        gone = forget.vanished(folders, catalog, found)
        log.log_removed(job.store, gone, catalog, job.fingerprints["images"])
        summary.forgotten = len(gone)
    return found


def _describe_new(
    job: Job, catalog: Catalog, found: Found, summary: Summary, executor: Executor
) -> None:
    """Let the new contents be described, and commit shard after shard in the order of the files."""
    total = len(found.candidates)
    progress = bar("ingest", total=total, unit="img", waits_for="loading models")
    done = 0

    def on_done(count: int) -> None:
        nonlocal done
        done += count
        progress.update(count)
        job.store.tell(done, total)

    plans: deque[tuple[list[Hashed], Contents]] = deque()
    under_way: set[str] = set()

    def tasks() -> Iterator[Contents]:
        for files in contents.hashed(job, found.candidates):
            new = contents.new_contents(files, catalog, under_way)
            under_way.update(content.digest for content in new)
            plans.append((files, new))
            on_done(len(files) - len(new))  # copies, and what cannot be read: done with
            yield new

    with progress, contextlib.closing(executor.map(Work(job, on_done), tasks())) as described:
        for tables in described:
            files, new = plans.popleft()
            under_way.difference_update(content.digest for content in new)
            shard_log = log.ShardLog(log.next_shard(job.store), catalog)
            digests = (content.digest for content in new)
            looked = dict(zip(digests, tables.looked, strict=True))
            ids = contents.log_files(shard_log, files, looked)
            _commit(job, shard_log, tables.with_ids(new, ids))
            _return_memory()
            summary.images += len(tables.entities.image_ids)
            summary.entities += len(tables.crops.jpegs)
            summary.copies += shard_log.copies
            summary.moved += shard_log.moved
            summary.returned += shard_log.returned
            summary.noted += shard_log.noted


def _commit(job: Job, shard_log: log.ShardLog, tables: Tables) -> None:
    """Commit a shard's tables in the order of the stages, as these would have."""
    with shard_log.catalog.changing():
        log.commit(job.store, shard_log, job.fingerprints["images"])
        if len(tables.entities.image_ids):
            for rows in (tables.entities, tables.crops, tables.embeddings):
                job.store.write(shard_log.shard, rows, job.fingerprints[rows.KIND])
            shard_log.catalog.describe(shard_log.shard, tables.entities)


def _return_memory() -> None:
    """Hand freed memory back to the system: with several threads glibc keeps ever more of it."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _skipped(catalog: Catalog, found: Found) -> list[Skipped]:
    """Return the unusable files among those a walk has seen."""
    seen = {os.fsdecode(path) for path in found.seen}
    return [
        Skipped(path, place.status, place.error or "")
        for path, place in catalog.skipped()
        if path in seen
    ]
