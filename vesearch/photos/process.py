"""One process that decodes images, as its parent sees it."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

import vesearch
from vesearch.config import ImageSettings
from vesearch.errors import ImageError, Unusable
from vesearch.photos.worker import DATA, LENGTH, PATH, READY
from vesearch.records import Frame
from vesearch.system.printable import one_line

_START_SECONDS = 60.0
_MOST_READS = 5_000  # broken files make some decoders lose memory
_GRACE_SECONDS = 1.0  # what a process is given to end itself before it is killed
_MAX_HEADER = 8192
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
_STATUSES = get_args(Unusable)
# vesearch itself is taken from where the parent has it, before the folders of all else are known
_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[2:3]; import vesearch; sys.path[:] = sys.argv[3:]; "
    "from vesearch.photos.worker import serve; serve(int(sys.argv[1]))"
)
_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",  # each further one would reserve address space, which is limited
    # what one image has freed serves the next: asking the system anew took a third of the time
    "MALLOC_TRIM_THRESHOLD_": f"{32 << 20}",
    "MALLOC_MMAP_THRESHOLD_": f"{16 << 20}",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


class _Lost(Exception):  # noqa: N818  (no error of its own: it becomes one)
    """A worker cannot be used any more; late: because its time was over."""

    def __init__(self, reason: str = "", *, late: bool = False) -> None:
        super().__init__(reason)
        self.late = late


class _Clock:
    """The time that is left for an answer."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self._extended = False

    def wait(self, poll: select.poll) -> None:
        """Wait until there is something to read. Raises _Lost when the time is over.

        The grace counts from when it is noticed that time is up: after a stopped parent goes on,
        an answer may have been there all along.
        """
        while not poll.poll(max(0.0, self._ends - time.monotonic()) * 1000):
            if self._extended:
                raise _Lost(late=True)
            self._ends, self._extended = time.monotonic() + _GRACE_SECONDS, True


class DecodingProcess:
    """One decoding process, as its parent sees it.

    Whatever hostile bytes may have made of the process, what it answers is checked: sizes before
    memory is allocated, types before values are used.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], lifeline: io.FileIO, limits: ImageSettings
    ) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._sound = False  # false while an answer is awaited, and for good after a wrong one
        self._reads = 0
        self._process = process
        self._lifeline = lifeline
        self._limits = limits
        self._to, self._from = process.stdin.fileno(), process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._from, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(self._to, select.POLLOUT)

    def start(self) -> None:
        """Send the limits and wait until the process is ready. Raises ImageError."""
        os.set_blocking(self._to, False)
        with contextlib.suppress(OSError, AttributeError):  # not Linux, or over the user's share
            fcntl.fcntl(self._from, fcntl.F_SETPIPE_SZ, 1 << 20)
        try:
            clock = _Clock(_START_SECONDS)
            self._send(json.dumps(asdict(self._limits)).encode(), clock=clock)
            if self._header(clock) != READY:
                raise _wrong_answer()
        except _Lost as lost:
            raise ImageError(self._obituary(lost, f"not ready in {_START_SECONDS:g} s")) from lost
        self._sound = True

    @property
    def fit(self) -> bool:
        """Tell whether another file may be read."""
        return self._sound and self._reads < _MOST_READS

    def waiting(self) -> bool:
        """Tell whether the process waits for a request, as it should: alive and silent."""
        return not self._poll.poll(0)

    def read(self, name: bytes) -> Frame:
        """Return the frame of a file. Raises ImageError."""
        return self._answer(PATH, name)

    def decode(self, data: bytes) -> Frame:
        """Return the frame of a file's bytes. Raises ImageError."""
        return self._answer(DATA, data)

    def end(self) -> None:
        """Kill the process and free what it held."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._lifeline):
            if pipe is not None:
                pipe.close()

    def _answer(self, kind: bytes, question: bytes) -> Frame:
        self._sound = False
        self._reads += 1
        clock = _Clock(self._limits.max_seconds)
        try:
            self._send(kind, question, clock=clock)
            header = self._header(clock)
            answer = _error_in(header) or self._frame(header, clock)
        except _Lost as lost:
            late = f"decoding took longer than images.max_seconds={self._limits.max_seconds:g}"
            raise ImageError(self._obituary(lost, late)) from lost
        self._sound = True
        if isinstance(answer, ImageError):
            raise answer
        return answer

    def _obituary(self, lost: _Lost, late: str) -> str:
        """End the process and say why it had to."""
        if not lost.late and not str(lost):  # then it has ended itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)
        code = self._process.poll()
        self.end()
        if lost.late or code == -signal.SIGALRM:
            return late
        return str(lost) or f"the decoder crashed ({_cause(code)})"

    def _send(self, *parts: bytes, clock: _Clock) -> None:
        """Send one message; the pipe takes it in pieces."""
        for part in (LENGTH.pack(sum(map(len, parts))), *parts):
            left = memoryview(part)
            while left:
                clock.wait(self._writable)
                try:
                    left = left[os.write(self._to, left) :]
                except BlockingIOError:  # less room than the pipe had promised
                    continue
                except OSError as err:  # it is gone
                    raise _Lost from err

    def _fill(self, room: memoryview, clock: _Clock) -> None:
        filled = 0
        while filled < len(room):
            clock.wait(self._poll)
            count = os.readv(self._from, [room[filled:]])
            if count == 0:
                raise _Lost
            filled += count

    def _header(self, clock: _Clock) -> dict[str, Any]:
        prefix = bytearray(LENGTH.size)
        self._fill(memoryview(prefix), clock)
        (size,) = LENGTH.unpack(prefix)
        if size > _MAX_HEADER:
            raise _wrong_answer()
        text = bytearray(size)
        self._fill(memoryview(text), clock)
        try:
            header = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise _wrong_answer() from err
        if type(header) is not dict:
            raise _wrong_answer()
        return header

    def _frame(self, header: dict[str, Any], clock: _Clock) -> Frame:
        """Read the pixels that a header announces. Raises _Lost."""
        h, w = (_number(header, key, self._limits.max_side) for key in ("h", "w"))
        width, height = (_number(header, key, 2**31 - 1) for key in ("width", "height"))
        digest, taken = str(header.get("digest")), header.get("taken")
        if not re.fullmatch("[0-9a-f]{32}", digest):
            raise _wrong_answer()
        if taken is not None and not re.fullmatch(_TIME, str(taken), re.ASCII):
            raise _wrong_answer()
        note = header.get("note")
        if note is not None and type(note) is not str:
            raise _wrong_answer()
        pixels = np.empty((h, w, 3), np.uint8)
        self._fill(pixels.data.cast("B"), clock)
        return Frame(pixels, width, height, digest, taken, note and one_line(note))


def _number(header: dict[str, Any], key: str, most: int) -> int:
    number = header.get(key)
    if type(number) is not int or not 1 <= number <= most:
        raise _wrong_answer()
    return number


def _wrong_answer() -> _Lost:
    return _Lost("the decoder gave a wrong answer")


def _error_in(header: dict[str, Any]) -> ImageError | None:
    """Return the error that a header tells of. Raises _Lost."""
    if "error" not in header:
        return None
    error, status = header["error"], header.get("status")
    if type(error) is not str or status not in _STATUSES:
        raise _wrong_answer()
    return ImageError(one_line(error), status=cast(Unusable, status))


def _cause(code: int | None) -> str:
    """Name how a process ended: SIGSEGV, or an exit code."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):  # one without a name
            return signal.Signals(-code).name
    return "no answer" if code is None else f"exit code {code}"


def spawn() -> tuple[subprocess.Popen[bytes], io.FileIO]:
    """Start a process that serves until the pipe that is returned too closes. Raises OSError."""
    home = str(Path(vesearch.__file__).absolute().parents[1])
    # never the current folder: anyone may have put a module there
    known = [place for place in sys.path if Path(place).is_absolute()]
    its_end, our_end = os.pipe()
    lifeline = io.FileIO(our_end, "w")
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOTSTRAP, str(its_end), home, *known],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=os.environ | _ENVIRONMENT,
            pass_fds=(its_end,),
            start_new_session=True,  # Ctrl-C is the parent's business
        )
    except BaseException:
        lifeline.close()
        raise
    finally:
        os.close(its_end)
    return process, lifeline
