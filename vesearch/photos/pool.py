"""Decode images in processes of their own: a decoder that crashes or hangs costs one image."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from pathlib import Path

from vesearch.config import ImageSettings
from vesearch.errors import ImageError, VesearchError
from vesearch.photos.files import read_object
from vesearch.photos.process import DecodingProcess, spawn
from vesearch.records import Frame
from vesearch.system.objects import url_of

_TRIES = 3  # to start a process, before it is taken for impossible
_MAX_DATA = (1 << 32) - 2  # bytes of a message
_MAX_PATH = 4096  # bytes, the system's own limit (PATH_MAX)


class Decoders:
    """Decode image files, or their bytes, in processes; one that crashes or hangs is replaced."""

    def __init__(self, limits: ImageSettings, workers: int) -> None:
        self._limits = limits
        self._slots = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()
        self._idle: list[DecodingProcess] = []
        self._closings = 0

    def read(self, path: Path) -> Frame:
        """Return what decode.read_frame would of a file; waits while all workers are busy.

        Raises ImageError as it does, and when the decoder crashes, takes too long or needs too much
        memory; VesearchError where no process can be started.
        """
        url = url_of(path)
        if url is not None:  # the processes know no network
            return self.decode(read_object(url, self._limits))
        name = _absolute(path)
        return self._asked(lambda worker: worker.read(name))

    def decode(self, data: bytes) -> Frame:
        """Return the same of a file's bytes."""
        most = min(self._limits.max_bytes, _MAX_DATA)
        if len(data) > most:
            text = f"{len(data)} bytes, over images.max_bytes={most}"
            raise ImageError(text, status="too_large")
        return self._asked(lambda worker: worker.decode(data))

    def close(self) -> None:
        """End the workers, a busy one after its image; a later read starts new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._closings += 1
        for worker in idle:
            worker.end()

    def _asked(self, question: Callable[[DecodingProcess], Frame]) -> Frame:
        with self._slots:
            closings = self._closings
            worker = self._take()
            try:
                return question(worker)
            finally:  # also after an interrupt: what an answer may still be under way to is lost
                with self._lock:
                    keep = worker.fit and closings == self._closings
                    if keep:
                        self._idle.append(worker)
                if not keep:
                    worker.end()

    def _take(self) -> DecodingProcess:
        while True:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                return self._started()
            if worker.waiting():
                return worker
            worker.end()  # died while idle: no image's fault

    def _started(self) -> DecodingProcess:
        reason = ""
        for _ in range(_TRIES):
            try:
                worker = DecodingProcess(*spawn(), self._limits)
            except OSError as err:
                reason = err.strerror or str(err)
                continue
            try:
                worker.start()
                return worker
            except ImageError as err:
                reason = str(err)
            except BaseException:
                worker.end()
                raise
        raise VesearchError(f"cannot start a process that decodes images: {reason}")


_SHARED: dict[tuple[ImageSettings, int, int], Decoders] = {}
_SHARED_LOCK = threading.Lock()


def shared(limits: ImageSettings, workers: int) -> Decoders:
    """Return this process's decoders for these limits; they are kept until it ends."""
    key = (limits, workers, os.getpid())  # a forked child must not talk to its parent's workers
    with _SHARED_LOCK:
        if key not in _SHARED:
            _SHARED[key] = Decoders(limits, workers)
            atexit.register(_SHARED[key].close)
        return _SHARED[key]


def _absolute(path: Path) -> bytes:
    """Return a path as bytes for a process that has another current folder. Raises ImageError."""
    try:
        name = os.fsencode(path if path.is_absolute() else Path.cwd() / path)
    except OSError as err:
        raise ImageError(err.strerror or str(err)) from err
    if len(name) >= _MAX_PATH:
        raise ImageError("File name too long")
    return name
