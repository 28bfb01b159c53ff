"""Keep bytes that were fetched until they are needed, in files without names."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import BinaryIO

_MOST_BYTES = 2 << 30  # on the disk; what is more is fetched again
_FILE_BYTES = 256 << 20


@dataclass(slots=True, eq=False)
class _Part:
    """A file of the spool; left: how many bytes of it are waited for."""

    file: BinaryIO
    end: int = 0
    left: int = 0


def _unnamed() -> BinaryIO:
    return tempfile.TemporaryFile(buffering=0)


class Spool:
    """Bytes by key, each taken once; a killed process leaves nothing behind.

    Those that nobody took give way to others: then take returns None.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[Hashable, tuple[_Part, int, int]] = {}
        self._parts: list[_Part] = []

    def put(self, key: Hashable, data: bytes) -> None:
        """Keep bytes, if there is room."""
        with self._lock, contextlib.suppress(OSError):  # a full disk
            self._drop(key)
            while self._parts and sum(p.end for p in self._parts) + len(data) > _MOST_BYTES:
                self._forget(self._parts[0])
            if not self._parts or self._parts[-1].end >= _FILE_BYTES:
                self._parts.append(_Part(_unnamed()))
            part = self._parts[-1]
            part.file.seek(part.end)
            if part.file.write(data) != len(data):
                return
            self._places[key] = part, part.end, len(data)
            part.end += len(data)
            part.left += len(data)

    def take(self, key: Hashable) -> bytes | None:
        """Return bytes and forget them; None where they were not kept."""
        with self._lock:
            if key not in self._places:
                return None
            part, start, size = self._places[key]
            data = os.pread(part.file.fileno(), size, start)
            self._drop(key)
            return data if len(data) == size else None

    def _drop(self, key: Hashable) -> None:
        if key not in self._places:
            return
        part, _, size = self._places.pop(key)
        part.left -= size
        if not part.left:
            self._forget(part)

    def _forget(self, part: _Part) -> None:
        self._places = {key: at for key, at in self._places.items() if at[0] is not part}
        self._parts.remove(part)
        part.file.close()
