"""A file layer that fails on purpose: at the nth change of the disk it dies, or errs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_CHANGES = ("replace", "rename", "unlink", "rmdir", "mkdir", "symlink", "fsync")


class Crash(BaseException):
    """The process is gone: nothing is cleaned up, whatever the code would like to do."""


class FileLayer:
    """Counts the changes of the disk; at number `at` it raises `error`.

    A Crash stays: what comes after it does not happen either. An OSError that is not a Crash comes
    once, or with `lasting` for every change after it too, except for removals: a full disk.
    """

    def __init__(
        self, at: int | None = None, error: type[Crash] | int = Crash, *, lasting: bool = False
    ) -> None:
        self.at = at
        self.error = error
        self.lasting = lasting
        self.changes = 0

    @contextmanager
    def armed(self) -> Iterator[FileLayer]:
        """Put this layer below everything in this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _CHANGES:
                patch.setattr(os, name, self._watched(getattr(os, name), name))
            patch.setattr(Path, "write_bytes", self._torn(Path.write_bytes))
            yield self

    def _fails_now(self, name: str) -> bool:
        number, self.changes = self.changes, self.changes + 1
        if self.at is None or number < self.at:
            return False
        if self.error is Crash:
            return True
        return number == self.at or (self.lasting and name not in ("unlink", "rmdir"))

    def _fail(self, path: object) -> None:
        if self.error is Crash:
            raise Crash
        assert isinstance(self.error, int)
        raise OSError(self.error, os.strerror(self.error), str(path))

    def _watched(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._fails_now(name):
                self._fail(args[0])
            return real(*args, **kwargs)

        return watched

    def _torn(self, real: Callable[[Path, bytes], int]) -> Callable[[Path, bytes], int]:
        """Write half of the bytes before failing."""

        def torn(path: Path, data: bytes) -> int:
            if self._fails_now("write"):
                real(path, data[: len(data) // 2])
                self._fail(path)
            return real(path, data)

        return torn
