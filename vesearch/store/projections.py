"""The projection's file: the collection's own, and the copy that an index keeps."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from vesearch.errors import StoreMissingError
from vesearch.projection import Projection
from vesearch.store.shards import Store
from vesearch.system.digests import fingerprint_of

_ARRAYS = ("mean", "components", "explained_variance")
_FITTED_ON = "fitted_on"


def path_of(store: Store) -> Path:
    """Return the file of the collection's projection."""
    return store.path / "projection.h5"


def load(store: Store) -> Projection:
    """Read the collection's projection. Raises StoreMissingError saying how to make it."""
    if not path_of(store).exists():
        raise StoreMissingError(f"store {store.name} has no index yet; run: vesearch build-index")
    return load_from(store, path_of(store))


def load_from(store: Store, path: Path) -> Projection:
    """Read a projection's file. Raises StoreMissingError or StoreDamagedError."""
    return Projection(**store.read_file(path, _ARRAYS))


def save(store: Store, projection: Projection, *, fitted_on: int, fingerprint: str) -> None:
    """Commit the collection's projection; fitted_on: how many entities it was fitted on."""
    columns = {name: getattr(projection, name) for name in _ARRAYS}
    columns[_FITTED_ON] = np.array([fitted_on])
    store.write_file(path_of(store), columns, fingerprint)


def copy(store: Store, source: Path, target: Path) -> None:
    """Copy a projection's file: an index keeps the one that its vectors were made with."""
    columns = store.read_file(source, (*_ARRAYS, _FITTED_ON))
    store.write_file(target, columns, store.fingerprint(source))


def fitted_on(store: Store) -> int:
    """Return how many entities the collection's projection was fitted on."""
    return int(store.read_file(path_of(store), [_FITTED_ON])[_FITTED_ON][0])


def vectors_fingerprint(projection: Projection, upstream: str) -> str:
    """Return the fingerprint of the vectors that it makes of embeddings; upstream: of these."""
    arrays = projection.mean.tobytes() + projection.components.tobytes()
    return fingerprint_of(upstream, hashlib.blake2b(arrays).hexdigest())
