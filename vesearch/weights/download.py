"""Fetch a published file: continued where it was cut, checked before it gets its name."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO

from vesearch.errors import DigestError, DownloadError
from vesearch.system import digests, files
from vesearch.system.progress import bar
from vesearch.weights import remote, zoo

PAUSES_S = (1.0, 3.0, 10.0)  # before each new attempt; new bytes earn all of them anew
_BLOCK = 1 << 16  # bytes
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP codes that another attempt may not meet


def fetch(
    url: str, path: Path, *, sha256: str | None = None, md5: str | None = None, advice: str = ""
) -> str:
    """Fetch a file and return its sha256 in hex; path appears whole and checked, or not at all.

    What has arrived stays in "<path>.part", and the next call continues it. sha256 and md5 are
    hex digests, or how they begin. advice: see `remote.unreachable`.
    Raises DownloadError, or DigestError when the file is not the expected one.
    """
    try:
        with _locked(_beside(path, ".part")) as part:
            version = _Download(url, path, part, advice).complete()
            part.flush()
            digest = _checked(path, version, sha256=sha256, md5=md5)
            files.sync(_beside(path, ".part"))
            os.replace(_beside(path, ".part"), path)
            files.sync(path.parent)
            _beside(path, ".part.json").unlink(missing_ok=True)
    except OSError as err:
        raise DownloadError(f"{path}: cannot be written: {err.strerror or err}") from err
    return digest


def cached(url: str, path: Path, *, advice: str = "") -> Path:
    """Return path, fetched as `fetch_known` does where it is missing."""
    if not path.is_file():
        fetch_known(url, path, advice=advice)
    return path


def fetch_known(url: str, path: Path, *, advice: str = "") -> None:
    """Fetch a file of which what the zoo knows must hold.

    Where nobody published a digest, that of the first pull is kept, and later ones must agree.
    Raises DownloadError, or DigestError.
    """
    digests = zoo.digests(url)
    try:
        sha256 = fetch(url, path, sha256=digests.sha256, md5=digests.md5, advice=advice)
    except DigestError as err:
        if digests.source is None:
            raise
        raise DigestError(
            f"{err}. It was {str(digests.sha256)[:8]}… when it was first pulled; to accept "
            f"the new file, delete its line in {digests.source}"
        ) from err
    if digests.sha256 is None:
        zoo.remember_digest(url, sha256)


def compare_digests(path: Path, *, sha256: str | None = None, md5: str | None = None) -> str:
    """Return a file's sha256 in hex. Raises DigestError unless the digests begin as given."""
    found = {"sha256": digests.sha256(path)}
    if md5 is not None:
        found["md5"] = _md5(path)
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None and not found[name].startswith(expected.lower()):
            more = "…" if len(expected) < len(found[name]) else ""
            raise DigestError(f"{name} is {found[name]}, expected {expected}{more}")
    return found["sha256"]


def say(text: str) -> None:
    """Tell on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


def announce(name: str, size: int | None, url: str, path: Path) -> None:
    """Tell what is fetched, how large it is, from where, and to where."""
    say(f"fetching {name}, {size_text(size)}\n  from {url}\n  to   {path}")


def size_text(size: int | None) -> str:
    """Return bytes as "940 bytes", "2.5 MB", "94 MB" or "3.2 GB"; 1 MB is 1,000,000 bytes."""
    if size is None:
        return "of unknown size"
    if size < 100_000:
        return f"{size:,} bytes"
    if size < 9_950_000:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e6:.0f} MB" if size < 999_500_000 else f"{size / 1e9:.1f} GB"


class _CutError(Exception):
    """The transfer broke off, but may continue."""


@dataclass(frozen=True, slots=True)
class _Version:
    """Which file the server has; kept beside what has arrived, to continue only the same one.

    validator: a strong ETag or a Last-Modified date; size in bytes; md5 in hex.
    """

    url: str
    validator: str | None = None
    size: int | None = None
    md5: str | None = None

    @classmethod
    def offered(cls, url: str, headers: Message) -> _Version:
        """Read the headers of a response that carries the whole file."""
        etag = headers.get("ETag", "")
        # RFC 9110, 13.1.5: a weak ETag must not be used to continue
        validator = headers.get("Last-Modified") if not etag or etag.startswith("W/") else etag
        hashes = ",".join(headers.get_all("x-goog-hash", []))
        md5 = re.search(r"\bmd5=([A-Za-z0-9+/]{22}==)", hashes)
        return cls(
            url, validator, _length(headers), base64.b64decode(md5[1]).hex() if md5 else None
        )

    @classmethod
    def kept(cls, path: Path, url: str) -> _Version:
        """Read what was kept; where there is nothing, a version that cannot be continued."""
        try:
            version = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return cls(url)
        return version if version.url == url else cls(url)

    def continued_by(self, headers: Message, start: int) -> bool:
        """Tell whether a partial response carries on at byte `start` of this very file."""
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if span is None or int(span[1]) != start:
            return False
        if self.size is not None and span[2] not in ("*", str(self.size)):
            return False
        by_date = self.validator is not None and not self.validator.startswith('"')
        return by_date or headers.get("ETag") in (None, self.validator)


class _Download:
    """A file on its way, over as many connections as it takes."""

    def __init__(self, url: str, path: Path, part: IO[bytes], advice: str) -> None:
        self.url = url
        self.path = path
        self.part = part
        self.advice = advice
        self.version = _Version.kept(_beside(path, ".part.json"), url)
        self.announced = False

    def complete(self) -> _Version:
        """Fetch what is missing. Raises DownloadError; what has arrived stays."""
        if self.version.validator is None:
            self.part.truncate(0)
        most, pauses = self._size(), iter(PAUSES_S)
        while self._size() != self.version.size:
            try:
                self._receive()
                break
            except _CutError as cut:
                if self._size() > most:
                    most, pauses = self._size(), iter(PAUSES_S)
                pause = next(pauses, None)
                if pause is None:
                    raise DownloadError(
                        f"{self.url}: {cut}; the same command continues where it was"
                    ) from cut
                time.sleep(pause)
        return self.version

    def _size(self) -> int:
        return self.part.seek(0, os.SEEK_END)

    def _receive(self) -> None:
        """Read one response to its end. Raises _CutError when it breaks off."""
        start = self._size()
        with self._respond(start) as response:
            if response.status == 206 and not self.version.continued_by(response.headers, start):
                self.version = _Version(self.url)
                self.part.truncate(0)
                raise _CutError(f"{remote.host(self.url)} sent another part than it was asked for")
            if response.status == 200:
                self._begin(_Version.offered(self.url, response.headers), start)
                start = 0
            self._tell(start)
            length = _length(response.headers)
            total = None if length is None else start + length
            with bar("download", total=total or 0, unit="B") as shown:
                shown.unit_scale, shown.n, shown.initial = True, start, start
                for block in _blocks(response):
                    self.part.write(block)
                    shown.update(len(block))
        for expected in (total, self.version.size):
            if expected is not None and self._size() != expected:
                raise _CutError(
                    f"the connection broke off at {self._size():,} of {expected:,} bytes"
                )

    def _begin(self, version: _Version, start: int) -> None:
        """Start anew with this version; `start` bytes of another one, or of the same, go."""
        if start:
            same = version.validator == self.version.validator
            why = "the server cannot continue" if same else "the file on the server has changed"
            say(f"{self.path.name}: {why}, so from the beginning")
        self.version = version
        self.part.truncate(0)
        files.write_text(_beside(self.path, ".part.json"), json.dumps(asdict(version)))
        free = shutil.disk_usage(self.path.parent).free
        if version.size is not None and version.size > free:
            raise DownloadError(
                f"{self.path}: {size_text(version.size)} to fetch, but only {size_text(free)} "
                f"are free there"
            )

    def _tell(self, start: int) -> None:
        if not self.announced:
            announce(self.path.name, self.version.size, self.url, self.path)
        if start:
            say(f"  continuing after {size_text(start)}")
        self.announced = True

    def _respond(self, start: int) -> HTTPResponse:
        """Open the response that carries the file from byte `start` on."""
        headers = {}
        if start and self.version.validator is not None:
            headers = {"Range": f"bytes={start}-", "If-Range": self.version.validator}
        try:
            response = remote.open_url(self.url, headers)
        except urllib.error.HTTPError as err:
            err.close()
            if err.code == 416:  # more has arrived than the server has
                self.part.truncate(0)
            elif err.code not in _PASSING:
                raise DownloadError(f"{self.url}: HTTP {err.code} {err.reason}") from err
            raise _CutError(f"HTTP {err.code} {err.reason}") from err
        except urllib.error.URLError as err:
            if not self.announced:
                raise remote.unreachable(self.url, err, self.advice) from err
            raise _CutError(f"the connection broke off: {remote.reason(err)}") from err
        except (OSError, HTTPException) as err:  # connected, but no proper answer
            raise _CutError(f"no answer: {remote.reason(err)}") from err
        self._check_kind(response, partial=bool(headers))
        return response

    def _check_kind(self, response: HTTPResponse, *, partial: bool) -> None:
        """Raise DownloadError for a response that is no file, or whose end cannot be told."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        chunked = "Transfer-Encoding" in response.headers
        if response.status != 200 and not (partial and response.status == 206):
            wrong = f"HTTP {response.status} {response.reason}"
        elif kind == "text/html":
            wrong = "answered with a web page, not with the file; is a log-in page in between?"
        elif not chunked and _length(response.headers) is None:
            wrong = "the server does not say how large the file is"
        else:
            return
        response.close()
        raise DownloadError(f"{self.url}: {wrong}")


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the body in pieces. Raises _CutError when the connection does not hold."""
    while True:
        try:
            block = response.read(_BLOCK)
        except (OSError, HTTPException) as err:
            raise _CutError(f"the connection broke off: {remote.reason(err)}") from err
        if not block:
            return
        yield block


def _checked(path: Path, version: _Version, *, sha256: str | None, md5: str | None) -> str:
    """Return the sha256 of what has arrived; a wrong file is removed and raises DigestError."""
    if md5 is None or (version.md5 or "").startswith(md5.lower()):
        md5 = version.md5 or md5  # what the server itself says of it is longer
    try:
        return compare_digests(_beside(path, ".part"), sha256=sha256, md5=md5)
    except DigestError as err:
        _beside(path, ".part").unlink()
        _beside(path, ".part.json").unlink(missing_ok=True)
        raise DigestError(f"{version.url}: {err}; what was fetched is removed") from err


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """Open the partial file for appending, as the only process that does."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # its holder may have given it its final name since it was opened
            alone = part.exists() and part.stat().st_ino == os.fstat(file.fileno()).st_ino
        except BlockingIOError:
            alone = False
        if not alone:
            raise DownloadError(f"{part}: another process is fetching it")
        try:
            yield file
        finally:
            file.flush()
            if part.exists() and part.stat().st_size == 0:
                part.unlink()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _length(headers: Message) -> int | None:
    length = headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
