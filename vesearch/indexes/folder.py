"""Commit an index's folder atomically, with a manifest that shows damage before NGT opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vesearch.errors import StoreDamagedError, StoreMissingError
from vesearch.system.digests import crc32
from vesearch.system.files import atomic_folder, read_json, sealed_json

MANIFEST = "index.json"
FORMAT = 1
REBUILD = "run `vesearch build-index` again"


def damaged(folder: Path, why: str) -> StoreDamagedError:
    """Return the error for an index that cannot be read, with the way out."""
    return StoreDamagedError(f"{folder}: the index is damaged ({why}); {REBUILD}")


def commit(folder: Path, facts: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Let write fill a fresh folder, add the manifest with facts, and move it to its name."""
    with atomic_folder(folder) as part:
        write(part)
        files = {
            path.name: {"size": path.stat().st_size, "crc32": crc32(path)}
            for path in sorted(part.iterdir())
        }
        manifest = {"format": FORMAT, **facts, "files": files}
        (part / MANIFEST).write_text(sealed_json(manifest), encoding="utf-8")


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """Return a folder's manifest once every file in it has the size and CRC-32 it was saved with.

    Raises StoreMissingError where there is no folder, StoreDamagedError otherwise.
    """
    if not folder.is_dir():
        raise StoreMissingError(f"{folder}: there is no index; run `vesearch build-index` first")
    try:
        manifest = read_json(folder / MANIFEST)
        found, files = (manifest["format"], manifest["kind"]), manifest["files"].items()
        expected = [(folder / name, file["size"], file["crc32"]) for name, file in files]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise damaged(folder, f"{MANIFEST} cannot be read") from err
    if found != (FORMAT, kind):
        raise damaged(folder, f"it is {found[1]!r} format {found[0]}, not {kind!r} format {FORMAT}")
    for path, size, checksum in expected:
        if path.parent != folder:  # an index may come from anybody
            raise damaged(folder, f"{MANIFEST} names {path}")
        try:
            whole = path.stat().st_size == size and crc32(path) == checksum
        except OSError as err:
            raise damaged(folder, f"{path.name} cannot be read") from err
        if not whole:
            raise damaged(folder, f"{path.name} is not as it was saved")
    return manifest
