"""Forget files: those that vanished, and those that their owner wants out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vesearch.errors import VesearchError
from vesearch.job import Job
from vesearch.stages.walking import Found
from vesearch.store.catalog import Catalog
from vesearch.store.catalog_rows import Place
from vesearch.store.log import log_removed
from vesearch.store.lookup import Named
from vesearch.system.files import is_gone
from vesearch.system.objects import absolute, spelled


def remove_named(job: Job, patterns: Sequence[str]) -> list[str]:
    """Remove what patterns name from the collection; return the paths.

    Raises StoreMissingError, StoreLockedError, or VesearchError for a pattern that names nothing.
    """
    fingerprint = job.recorded_fingerprints()["images"]  # there must be a store
    with job.store.lock():
        catalog = Catalog.of(job.store)
        paths = matching(patterns, catalog)
        log_removed(job.store, paths, catalog, fingerprint)
    return [os.fsdecode(path) for path in paths]


def vanished(folders: Sequence[Path], catalog: Catalog, found: Found) -> list[bytes]:
    """Return the known paths below folders that a walk has not found and that are gone.

    What cannot be read just now is not gone.
    """
    seen = set(found.seen)
    return [p for p in _below(folders, catalog) if p not in seen and is_gone(p)]


def refuse_unmounted(folders: Sequence[Path], catalog: Catalog, found: Found) -> None:
    """Raise VesearchError when more than half of the known files below folders are gone.

    A file that was moved, going by size and time, is not.
    """
    known = _below(folders, catalog)
    gone = Counter(known[path].look for path in vanished(folders, catalog, found))
    candidates = (c for c in found.candidates if catalog.place(c.path) is None)
    new = Counter((c.size, c.mtime_ns) for c in candidates)
    count = (gone - new).total()
    if 2 * count > len(known):
        names = ", ".join(map(spelled, folders))
        raise VesearchError(
            f"{count} of the {len(known)} known files below {names} are gone: is a disk not "
            "mounted? Nothing was forgotten; --sync --force forgets them"
        )


def matching(patterns: Sequence[str], catalog: Catalog) -> list[bytes]:
    """Return the known paths that patterns name: files, folders, or globs with * ? [] and **.

    Raises VesearchError for a pattern that names none.
    """
    named: set[bytes] = set()
    for pattern in patterns:
        own = _named(absolute(pattern), catalog)
        if not own:
            raise VesearchError(f"{pattern}: no file of the collection has this path")
        named |= own
    return sorted(named)


def _below(folders: Sequence[Path], catalog: Catalog) -> dict[bytes, Place]:
    """Return the known paths below folders."""
    roots = (os.fsencode(absolute(folder)) for folder in folders)
    return {path: place for root in roots for path, place in catalog.known(root)}


def _named(pattern: str, catalog: Catalog) -> set[bytes]:
    """Return the known paths that one absolute pattern names; names with * in them come first."""
    exact = {path for path, _ in catalog.known(os.fsencode(pattern))}
    if exact:
        return exact
    named = Named(pattern)
    return {path for path, _ in catalog.known(named.root) if named.fits(path)}
