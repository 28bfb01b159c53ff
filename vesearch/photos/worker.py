"""Decode images on request: what runs in a process of vesearch.photos.process."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import struct
import warnings
from pathlib import Path
from typing import Any

from PIL import Image

from vesearch.config import ImageSettings
from vesearch.errors import ImageError
from vesearch.photos import decode
from vesearch.photos.formats import formats
from vesearch.records import UInt8

LENGTH = struct.Struct(">I")  # goes before each message
READY = {"ready": True}
# a request begins with what follows: a file's name, or its bytes
PATH, DATA = b"p", b"d"
_PART_BYTES = 1 << 20


def serve(lifeline: int) -> None:
    """Answer requests on stdin until it ends.

    lifeline: a pipe's descriptor; when its other end closes, the parent is gone.
    """
    answers = os.dup(1)  # a library that prints must not answer
    os.dup2(2, 1)
    limits = ImageSettings(**json.loads(_receive() or b"{}"))
    formats()  # imports Pillow's decoders
    warnings.simplefilter("ignore")
    # Pillow's own bound, on what an image holds inside too, is one for all of a process: it refuses
    # what has over twice as many pixels
    Image.MAX_IMAGE_PIXELS = limits.max_pixels // 2
    _confine(limits)
    _end_with(lifeline)
    with contextlib.suppress(BrokenPipeError):  # nobody wants the answer
        _answer(answers, READY)
        while (request := _receive()) is not None:
            _answer(answers, *_decode(request, limits))


def _receive() -> bytes | None:
    """Return the next message, None at the end."""
    prefix = _exactly(LENGTH.size)
    return None if prefix is None else _exactly(*LENGTH.unpack(prefix))


def _exactly(count: int) -> bytes | None:
    parts, left = [], count
    while left:
        part = os.read(0, min(left, _PART_BYTES))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _answer(fd: int, header: dict[str, Any], pixels: UInt8 | None = None) -> None:
    text = json.dumps(header).encode()
    parts = [memoryview(LENGTH.pack(len(text)) + text)]
    for part in parts if pixels is None else [*parts, pixels.data.cast("B")]:
        while part:
            part = part[os.write(fd, part) :]


def _decode(request: bytes, limits: ImageSettings) -> tuple[dict[str, Any], UInt8 | None]:
    """Return the answer to one request; an alarm ends the process when that takes too long."""
    signal.setitimer(signal.ITIMER_REAL, limits.max_seconds)
    try:
        if request[:1] == PATH:
            frame = decode.read_frame(Path(os.fsdecode(request[1:])), limits)
        else:
            frame = decode.decode(request[1:], limits)
    except ImageError as err:
        return {"error": str(err), "status": err.status}, None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    (h, w), sizes = frame.pixels.shape[:2], {"width": frame.width, "height": frame.height}
    header = {"h": h, "w": w, **sizes, "digest": frame.digest}
    header |= {"taken": frame.taken, "note": frame.note}
    return header, frame.pixels


def _confine(limits: ImageSettings) -> None:
    """Bound the process's memory, and let an alarm end it: that works inside C code too."""
    for kind, most in ((resource.RLIMIT_AS, limits.max_memory), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(OSError, ValueError):  # not every system can limit these
            resource.setrlimit(kind, (most, most))
    with contextlib.suppress(OSError):  # where memory runs out this process goes, not its parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _end_with(lifeline: int) -> None:
    """Let a signal end this process when the other end of a pipe closes, whatever it does then."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it had closed before
        os._exit(0)
