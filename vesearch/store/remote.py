"""A store on an object store: used as a copy in a folder, which follows it and which it follows."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vesearch.errors import ObjectStoreError, StoreError, StoreLockedError
from vesearch.store.catalog import Catalog
from vesearch.store.lease import Lease
from vesearch.store.lock import Writer
from vesearch.store.mirror import Mirror, State
from vesearch.store.rows import CropRows, ImageRows
from vesearch.store.sealed import Tail
from vesearch.store.shards import Store
from vesearch.system.conditional import check_kind
from vesearch.system.digests import digest_of_bytes
from vesearch.system.objects import url_of

logger = logging.getLogger(__name__)

_PULLING, _WRITING = b"pulling", b"writing"
_TRIES = 10
_TOLD: set[str] = set()  # stores that are known not to be reached just now


def opened(place: str, *, index_server: str = "") -> Store:
    """Return the store at a place: a folder, or a URL. Raises ObjectStoreError for other URLs."""
    url = url_of(place)
    if url is None:
        return Store(Path(place), index_server=index_server)
    check_kind(url)
    home = _home() / digest_of_bytes(url.encode())
    return RemoteStore(url, home, index_server=index_server)


def _home() -> Path:
    """Return the folder of the copies, in that of what vesearch keeps for itself."""
    named = os.environ.get("VESEARCH_CACHE")
    user = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return (Path(named) if named else Path(user) / "vesearch").expanduser() / "stores"


class RemoteStore(Store):
    """A store whose files are objects below a URL.

    home: the folder of the copy here, which several processes may use. Whatever is read comes from
    it, brought up to date when it is first needed, before each question, and before writing; what
    is committed is put there at once. Crops are fetched when they are asked for.
    """

    def __init__(self, url: str, home: Path, *, index_server: str = "") -> None:
        super().__init__(home / "store", index_server=index_server)
        self._url = url
        self._home = home
        self._mirror = Mirror(url, home)
        self._lease = Lease(url)
        self._is_open = False  # whether the copy was brought up to date once
        self._writes = False
        self._pulls = threading.RLock()

    @property
    def path(self) -> Path:
        """The folder of the copy, up to date when it is first asked for."""
        if not self._is_open:
            self.refresh()
        return self._folder

    @property
    def name(self) -> str:
        """Its URL."""
        return self._url

    def refresh(self) -> None:
        """Let the copy be as the store is now; one request where nothing has changed.

        Where it cannot be asked, the copy serves as it is. Raises StoreError where there is none.
        """
        with self._pulls:
            self._is_open = True
            if self._writes:
                return
            with self._alone() as may:
                if not may:  # a writer of this machine keeps it up to date
                    return
                try:
                    self._pull(lazy=True)
                    _TOLD.discard(self._url)
                except ObjectStoreError as err:
                    if not self._mirror.is_known or self._mirror.is_dirty:
                        raise StoreError(str(err)) from err
                    self._tell_lost(err)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the write lock, here and there; bring all here. Raises StoreLockedError."""
        with self._alone(_WRITING) as may:
            if not may:
                raise StoreLockedError(
                    f"store {self._url} is being written by a process of this machine; wait for it "
                    "to end"
                )
            with self._lease.held():
                self._is_open = self._writes = True
                try:
                    self._pull(lazy=False)
                    if self._mirror.is_foreign():
                        raise StoreError(f"{self._url} is no vesearch store, and it is not empty")
                    self._mirror.sweep()
                    self._mirror.save(dirty=True)
                    with super().lock():
                        yield
                        self._push()
                    self._mirror.save(dirty=False)
                finally:
                    self._writes = False

    @contextmanager
    def changing(self) -> Iterator[int]:
        """Count changes of tables as one; what was changed is then put there."""
        with super().changing() as generation:
            yield generation
        if self._writes and self.held is not None and not self.is_changing:
            self._push()

    def tell(self, done: int, total: int) -> None:
        """Note for others how far the work is that the lock is held for."""
        super().tell(done, total)
        self._lease.tell(done, total)

    def writer(self) -> Writer | None:
        """Return who holds the lock, wherever that is; None where nobody does."""
        return self._lease.writer()

    def shard_path(self, kind: str, shard: int) -> Path:
        """Return the file of one shard; crops are fetched where they are not here yet."""
        path = super().shard_path(kind, shard)
        if kind == CropRows.KIND and not self._writes and not path.exists():
            with self._pulls:
                self._fetch(path.relative_to(self._folder).as_posix())
        return path

    def is_done(self, kind: str, shard: int, fingerprint: str, tail: Tail | None = None) -> bool:
        """Tell whether a shard is committed with this fingerprint; no crops are fetched for it."""
        part = self._mirror.state.parts.get(f"{kind}/{shard:06d}.h5")
        if kind == CropRows.KIND and not self._writes and part is not None:
            return part.fingerprint == fingerprint
        return super().is_done(kind, shard, fingerprint, tail)

    def _shards(self, kind: str) -> Iterator[int]:
        here = set(super()._shards(kind))
        if kind == CropRows.KIND and not self._writes:
            names = (Path(n) for n in self._mirror.state.parts if n.startswith(f"{kind}/"))
            here |= {int(name.stem) for name in names if name.stem.isdigit()}
        yield from here

    def _tell_lost(self, err: ObjectStoreError) -> None:
        if self._url not in _TOLD:
            _TOLD.add(self._url)
            logger.warning("%s; the store is taken as it was when it was last read", err)

    def _push(self) -> None:
        try:
            self._mirror.push(self._lease.check)
        except (FileExistsError, FileNotFoundError) as err:
            raise self._lease.lost() from err
        except ObjectStoreError as err:
            raise StoreError(f"{err}; nothing that was committed is lost") from err
        except OSError as err:
            raise StoreError(f"cannot write to {self._url}: {err.strerror}") from err

    def _pull(self, *, lazy: bool) -> None:
        """Bring the copy up to date; lazy: crops may lack. The copy must be ours alone."""
        mirror = self._mirror
        mirror.load()
        for _ in range(_TRIES):
            state = mirror.newest()
            if state is None and lazy:
                return
            state = mirror.state if state is None else state
            try:
                brought = mirror.bring(state, mirror.lacking(state, lazy=lazy))
            except FileNotFoundError:  # replaced meanwhile
                mirror.is_dirty = True
                continue
            self._take(state, brought)
            return
        raise StoreError(f"{self._url} changes faster than it can be read")

    def _take(self, state: State, brought: dict[str, Path]) -> None:
        mirror = self._mirror
        if mirror.is_known:
            mirror.save(dirty=True)
        if state.parts:
            with Store.changing(self):
                gone = mirror.take(state, brought)
        else:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            gone = mirror.take(state, {})
        shutil.rmtree(self._home / "coming", ignore_errors=True)
        mirror.save(dirty=False)
        if any(name.startswith(f"{ImageRows.KIND}/") for name in gone):
            Catalog.forget_kept(self)  # else it would miss them
        if "store.json" in state.parts:
            self.held = {}  # as a writer has it: the catalogue's file is brought up to date
            try:
                Catalog.of(self)
            finally:
                self.held = None

    def _fetch(self, name: str) -> None:
        """Bring one file here, if there is one."""
        state = self._mirror.state
        if name not in state.parts:
            return
        with self._alone() as may:
            if not may:
                return
            try:
                coming = self._mirror.bring(state, [name])[name]
            except (OSError, ObjectStoreError) as err:
                raise StoreError(f"cannot read {self._url}/{name}: {err}") from err
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            coming.replace(path)
            self._mirror.note(name)
            self._mirror.save(dirty=False)

    @contextmanager
    def _alone(self, word: bytes = _PULLING) -> Iterator[bool]:
        """Have the copy for oneself; False where a writer has it. Pulls are waited for."""
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._home / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as err:
            raise StoreError(f"cannot write to {self._home}: {err.strerror}") from err
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if os.pread(handle, 7, 0) == _WRITING:
                        yield False
                        return
                time.sleep(0.02)
            os.pwrite(handle, word, 0)
            yield True
        finally:
            os.close(handle)
