"""What a store on an object store consists of, and which of it is here.

An object, manifest.json, names every file of the store with the digest of its bytes, and is
replaced whole; the files' objects have their digest in their keys and never change.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from vesearch.errors import ObjectStoreError, StoreDamagedError, StoreError, StoreMissingError
from vesearch.store import sealed
from vesearch.system import conditional, objects
from vesearch.system.digests import digest_of_bytes
from vesearch.system.files import TEMP_PREFIX, read_json, write_bytes, write_json

MANIFEST = "manifest.json"
_FORMAT = 1
_HERE_ONLY = ("lock", "generation", "catalog.db", "catalog.db-journal")
_FILES = "files/"  # comes before the names of their objects
_OURS = re.compile(r"\.[0-9a-f]{32}$")
_LAZY = "crops/"  # the bulk of a store, which hardly any question needs


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a store: digest of its bytes, and its own fingerprint where it is a table."""

    digest: str
    size: int
    fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """A manifest and its tag; None: there is none."""

    tag: str | None
    parts: dict[str, Part]

    def object_of(self, name: str) -> str:
        """Return the name of a file's object."""
        return f"{_FILES}{name}.{self.parts[name].digest}"

    def document(self) -> bytes:
        """Return the manifest."""
        parts = {name: asdict(self.parts[name]) for name in sorted(self.parts)}
        return json.dumps({"format": _FORMAT, "files": parts}).encode()


NOTHING = State(None, {})


class Mirror:
    """A copy of a store in a folder, of all of it or of what was needed.

    state: what the copy is of; looks: size and time of each file that is here as it is there.
    is_dirty: a writer may have changed files and not told.
    """

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.folder = home / "store"
        self._file = home / "mirror.json"
        self.state = NOTHING
        self.looks: dict[str, tuple[int, int]] = {}
        self.is_dirty = True
        self.is_known = False  # whether state was ever read
        self._loaded = 0, 0  # which file the state is from

    def load(self) -> None:
        """Read what the copy is of. What cannot be read is fetched anew."""
        try:
            info = self._file.stat()
            look = info.st_ino, info.st_mtime_ns
            if look == self._loaded:
                return
            known, self._loaded = read_json(self._file), look
            if known["url"] == self.url:
                self.state = State(known["tag"], _parts(known["files"]))
                self.looks = {name: (int(a), int(b)) for name, (a, b) in known["looks"].items()}
                self.is_dirty, self.is_known = bool(known["dirty"]), True
        except (OSError, ValueError, KeyError, TypeError, StoreDamagedError):
            return

    def save(self, *, dirty: bool) -> None:
        """Remember what the copy is of."""
        self.is_dirty, self.is_known = dirty, True
        files = {name: asdict(part) for name, part in self.state.parts.items()}
        about = {"url": self.url, "tag": self.state.tag, "dirty": dirty}
        write_json(self._file, about | {"files": files, "looks": self.looks})

    def newest(self) -> State | None:
        """Return what the store is now; None where the copy is of that."""
        known = None if self.is_dirty or not self.is_known else self.state.tag
        try:
            got = conditional.get(f"{self.url}/{MANIFEST}", but=known)
        except FileNotFoundError:
            return NOTHING if self.is_dirty or self.state != NOTHING else None
        except OSError as err:
            raise StoreError(f"cannot read {self.url}: {err.strerror}") from err
        if got is None:
            return None
        try:
            document = json.loads(got.data)
            if document["format"] != _FORMAT:
                raise StoreError(f"{self.url} was made by another version of vesearch")
            return State(got.tag, _parts(document["files"]))
        except (ValueError, KeyError, TypeError) as err:
            raise StoreDamagedError(f"{self.url}/{MANIFEST} is damaged: {err}") from err

    def lacking(self, state: State, *, lazy: bool) -> list[str]:
        """Return which files of a state are not here as they are there; lazy: crops may lack."""
        return [
            name
            for name, part in state.parts.items()
            if not (lazy and name.startswith(_LAZY) and not self._is_at(name))
            and not (self.state.parts.get(name) == part and self._is_here(name))
        ]

    def bring(self, state: State, names: Iterable[str]) -> dict[str, Path]:
        """Fetch files under other names, several at once; return where each is.

        Raises FileNotFoundError where a later state has replaced one.
        """

        def fetch(name: str) -> Path:
            data = objects.read(f"{self.url}/{state.object_of(name)}", None)
            if digest_of_bytes(data) != state.parts[name].digest:
                raise StoreDamagedError(f"{self.url}/{state.object_of(name)} is damaged")
            coming = self._file.parent / "coming" / state.object_of(name)
            write_bytes(coming, data)
            return coming

        names = list(names)
        with ThreadPoolExecutor(objects.AT_ONCE) as pool:
            return dict(zip(names, pool.map(fetch, names), strict=True))

    def take(self, state: State, brought: dict[str, Path]) -> list[str]:
        """Let the copy be of a state: put files in their places, remove others; return those."""
        for name, coming in brought.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            coming.replace(path)
            self.note(name)
        gone = [name for name in self._names() if name not in state.parts]
        for name in gone:
            (self.folder / name).unlink(missing_ok=True)
        self.looks = {name: look for name, look in self.looks.items() if name in state.parts}
        self.state = state
        return gone

    def push(self, check: Callable[[], None]) -> None:
        """Put what has changed here, and then the manifest; check: raises where that must not be.

        A kill at any instant leaves the store as it was, or as it is now.
        """
        names = list(self._names())
        changed = [name for name in names if not self._is_here(name)]
        parts = {name: self.state.parts[name] for name in names if name not in changed}
        with ThreadPoolExecutor(objects.AT_ONCE) as pool:
            put = pool.map(lambda name: self._put(name, check), changed)
            parts |= dict(zip(changed, put, strict=True))
        if parts == self.state.parts:
            return
        check()
        before, after = self.state, State(self.state.tag, parts)
        self.state = replace(after, tag=self._commit(after.document(), before.tag))
        for name in changed:
            self.note(name)
        self.looks = {name: look for name, look in self.looks.items() if name in parts}
        self.save(dirty=True)
        used = {after.object_of(name) for name in parts}
        self._delete(before.object_of(n) for n in before.parts if before.object_of(n) not in used)

    def sweep(self) -> None:
        """Remove what killed writers put and never committed."""
        used = {self.state.object_of(name) for name in self.state.parts}
        names = (f"{_FILES}{name}" for name in conditional.names_below(f"{self.url}/files"))
        self._delete(name for name in names if name not in used and _OURS.search(name))

    def is_foreign(self) -> bool:
        """Tell whether there are objects of somebody else's, and no store."""
        names = conditional.names_below(self.url) if self.state.tag is None else []
        # a first writer that was killed leaves files without a manifest
        return any(name != "lock" and not name.startswith(_FILES) for name in names)

    def _commit(self, document: bytes, before: str | None) -> str:
        try:
            return conditional.put(f"{self.url}/{MANIFEST}", document, over=before)
        except FileExistsError:
            got = conditional.get(f"{self.url}/{MANIFEST}")
            if got is not None and got.data == document:
                return got.tag  # ours: the answer to an earlier try was lost
            raise

    def _put(self, name: str, check: Callable[[], None]) -> Part:
        data = (self.folder / name).read_bytes()
        part = Part(digest_of_bytes(data), len(data), self._fingerprint(name))
        if self.state.parts.get(name) != part:
            check()
            conditional.put_anyway(f"{self.url}/{_FILES}{name}.{part.digest}", data)
        return part

    def _delete(self, names: Iterable[str]) -> None:
        """Remove objects; what cannot be removed now is swept later."""
        for name in names:
            try:
                conditional.delete(f"{self.url}/{name}")
            except (OSError, ObjectStoreError):
                return

    def _fingerprint(self, name: str) -> str | None:
        if not name.startswith(_LAZY):
            return None
        try:
            return sealed.tail_of(self.folder / name).fingerprint
        except StoreMissingError:
            return None

    def _names(self) -> Iterator[str]:
        """Yield the files of the store that are here."""
        for place, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(TEMP_PREFIX)]
            here = Path(place).relative_to(self.folder)
            for file in files:
                name = (here / file).as_posix()
                if name not in _HERE_ONLY and not file.startswith(TEMP_PREFIX):
                    yield name

    def note(self, name: str) -> None:
        """Remember that a file is here as it is there."""
        info = (self.folder / name).stat()
        self.looks[name] = info.st_size, info.st_mtime_ns

    def _is_at(self, name: str) -> bool:
        return (self.folder / name).exists()

    def _is_here(self, name: str) -> bool:
        try:
            info = (self.folder / name).stat()
        except OSError:
            return False
        return self.looks.get(name) == (info.st_size, info.st_mtime_ns)


def _parts(files: Any) -> dict[str, Part]:
    """Return what a manifest names; it may come from anybody. Raises StoreDamagedError."""
    parts = {}
    for name, about in files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or name in _HERE_ONLY:
            raise StoreDamagedError(f"a manifest names {name!r}")
        digest, fingerprint = str(about["digest"]), about["fingerprint"]
        if not digest.isalnum():
            raise StoreDamagedError(f"a manifest has the digest {digest!r}")
        parts[str(name)] = Part(digest, int(about["size"]), fingerprint and str(fingerprint))
    return parts
