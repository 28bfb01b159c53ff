"""Fetch a published file, and check it before it gets its name."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import shutil
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

import vesearch
from vesearch.errors import DigestError, DownloadError
from vesearch.system import digests, files
from vesearch.system.printable import one_line
from vesearch.system.progress import bar
from vesearch.weights import zoo

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

TIMEOUT_S = 30.0  # without a single byte
PAUSES_S = (1.0, 3.0, 10.0)  # before each new attempt
_BLOCK = 1 << 16  # bytes
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # codes that another attempt may not meet


def fetch(
    url: str, path: Path, *, sha256: str | None = None, md5: str | None = None, advice: str = ""
) -> str:
    """Fetch a file and return its sha256 in hex; path appears whole and checked, or not at all.

    sha256 and md5 are hex digests, or how they begin. advice: see `unreachable`.
    Raises DownloadError, or DigestError when the file is not the expected one.
    """
    try:
        with _locked(path.with_name(f"{path.name}.part")) as part:
            stated = _receive(url, path, part, advice)
            if md5 is None or stated.startswith(md5.lower()):
                md5 = stated or md5  # what the server itself says of it is longer
            digest = compare_digests(Path(part.name), sha256=sha256, md5=md5)
            os.fsync(part.fileno())
            os.replace(part.name, path)
            files.sync(path.parent)
    except DigestError as err:
        raise DigestError(f"{url}: {err}; what was fetched is removed") from err
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
    known = zoo.digests(url)
    try:
        sha256 = fetch(url, path, sha256=known.sha256, md5=known.md5, advice=advice)
    except DigestError as err:
        if known.source is None:
            raise
        raise DigestError(
            f"{err}. It was {str(known.sha256)[:8]}… when it was first pulled; to accept "
            f"the new file, delete its line in {known.source}"
        ) from err
    if known.sha256 is None:
        zoo.remember_digest(url, sha256)


def compare_digests(path: Path, *, sha256: str | None = None, md5: str | None = None) -> str:
    """Return a file's sha256 in hex. Raises DigestError unless the digests begin as given."""
    found = {"sha256": digests.sha256(path)}
    if md5 is not None:
        with path.open("rb") as file:
            hashed = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        found["md5"] = hashed.hexdigest()
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None and not found[name].startswith(expected.lower()):
            more = "…" if len(expected) < len(found[name]) else ""
            raise DigestError(f"{name} is {found[name]}, expected {expected}{more}")
    return found["sha256"]


def size_of(url: str, *, advice: str = "") -> int | None:
    """Ask for a file's size in bytes; None where the server does not say.

    advice: see `unreachable`. Raises DownloadError when there is no answer.
    """
    with _ask("HEAD", url, advice) as response:
        return _size(response) if response.ok else None


def unreachable(url: str, err: BaseException, advice: str) -> DownloadError:
    """Return the error that names the host, and what to do on a machine that is offline.

    advice: how to use the file once it was fetched elsewhere, as a clause after "and".
    """
    host, cause = urlsplit(url).netloc.rpartition("@")[2], _first_cause(err)
    if isinstance(cause, ssl.SSLError):
        return DownloadError(f"cannot reach {host} safely: {reason(cause)}")
    then = advice or "give the file with --set detect.weights=FILE or --set embed.weights=FILE"
    offline = f"offline? fetch {url} on another machine and {then}"
    return DownloadError(f"cannot reach {host} ({reason(cause)}): {offline}")


def reason(err: BaseException) -> str:
    """Return what went wrong in one line."""
    text = (err.strerror if isinstance(err, OSError) else None) or str(err)
    return one_line(text) or type(err).__name__


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


def _receive(url: str, path: Path, part: IO[bytes], advice: str) -> str:
    """Write the file into part; return the md5 that the server states, in hex, or ""."""
    pauses = list(PAUSES_S)
    while True:
        attempt = len(PAUSES_S) - len(pauses)
        # once it has answered, a server that cannot be reached may soon be back
        with _ask("GET", url, advice, reconnects=attempt) as response:
            size = _size(response)
            _check(response, url, path)
            if not attempt:
                announce(path.name, size, url, path)
            if _copy(response, part):
                hashes = response.headers.get("x-goog-hash", "")
                md5 = re.search(r"\bmd5=([A-Za-z0-9+/]{22}==)", hashes)
                return base64.b64decode(md5[1]).hex() if md5 else ""
        arrived = f"{part.tell():,}" if size is None else f"{part.tell():,} of {size:,}"
        cut = f"the connection broke off at {arrived} bytes"
        if not pauses:
            raise DownloadError(f"{url}: {cut}; the same command tries again")
        say(f"  {cut}, so from the beginning")
        time.sleep(pauses.pop(0))


def _copy(response: Response, part: IO[bytes]) -> bool:
    """Write a response's body into part, and tell whether it came to its end."""
    from urllib3.exceptions import HTTPError

    size = _size(response)
    part.seek(0)
    part.truncate()
    with suppress(HTTPError), bar("download", total=size or 0, unit="B") as shown:
        # not iter_content: it would unpack what a server sends packed all the same
        for block in response.raw.stream(_BLOCK, decode_content=False):
            part.write(block)
            shown.update(len(block))
        part.flush()
        return size in (None, part.tell())
    return False


def _check(response: Response, url: str, path: Path) -> None:
    """Raise DownloadError for a response that is no file, and for a file without room."""
    headers, size = response.headers, _size(response)
    free = shutil.disk_usage(path.parent).free
    if response.status_code != 200:
        wrong = f"{url}: HTTP {response.status_code} {response.reason}"
    elif headers.get("Content-Type", "").lower().startswith("text/html"):
        wrong = f"{url}: answered with a web page, not with the file; is a log-in page in between?"
    elif size is None and "Transfer-Encoding" not in headers:
        wrong = f"{url}: the server does not say how large the file is"
    elif size is not None and size > free:
        few = f"only {size_text(free)} are free there"
        wrong = f"{path}: {size_text(size)} to fetch, but {few}"
    else:
        return
    raise DownloadError(wrong)


def _size(response: Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _ask(method: str, url: str, advice: str, *, reconnects: int = 0) -> Response:
    """Return the response, redirects followed. Raises DownloadError when there is none."""
    import requests
    from urllib3.util import Retry

    class Session(requests.Session):
        def rebuild_auth(self, prepared_request: PreparedRequest, response: Response) -> None:
            """Follow a redirect with no password, and out of no encryption."""
            old, new = str(response.url), str(prepared_request.url)
            if old.startswith("https:") and not new.startswith("https:"):
                raise DownloadError(f"{old}: redirects to {new}, without encryption")

    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise DownloadError(f"{url}: only http:// and https:// can be fetched")
    retry = Retry(
        connect=reconnects,
        other=0,  # such as TLS
        read=len(PAUSES_S),
        status=len(PAUSES_S),
        status_forcelist=_PASSING,
        backoff_factor=PAUSES_S[0],
        raise_on_status=False,
        respect_retry_after_header=False,  # a server may ask for hours
    )
    # identity: a compressed body would have neither the length nor the digest of the file
    own = {"User-Agent": f"vesearch/{vesearch.__version__}", "Accept-Encoding": "identity"}
    adapter = requests.adapters.HTTPAdapter(max_retries=retry)
    with Session() as session:
        session.auth = lambda request: request  # otherwise a password of ~/.netrc
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        try:
            return session.request(method, url, headers=own, timeout=TIMEOUT_S, stream=True)
        except requests.RequestException as err:
            raise unreachable(url, err, advice) from err


def _first_cause(err: BaseException) -> BaseException:
    """Return the error below those that requests and urllib3 wrap around it."""
    below = (inner for inner in (err.__cause__, *err.args) if isinstance(inner, Exception))
    inner = next(below, None)
    return err if inner is None else _first_cause(inner)


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing, as the only process that does; it goes unless it was renamed."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # its holder may have renamed or removed it since it was opened
            alone = part.exists() and os.path.samestat(part.stat(), os.fstat(file.fileno()))
        except BlockingIOError:
            alone = False
        if not alone:
            raise DownloadError(f"{part}: another process is fetching it")
        try:
            yield file
        except BaseException:
            part.unlink(missing_ok=True)
            raise
