"""Photos on object stores: how their URLs are spelled, what is there, and its bytes (fsspec)."""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from vesearch.errors import MissingPackageError, ObjectStoreError
from vesearch.system.printable import one_line

T = TypeVar("T")
Look = tuple[int, int]  # size, and modification time in ns
AT_ONCE = 8  # requests: it is their way there and back that takes time

# Path makes one slash of two, so both are taken for the same; a key has no empty part here
_URL = re.compile(r"(s3|gs|az):/+(.*)", re.DOTALL)
_PACKAGES = {"s3": "'vesearch[s3]'", "gs": "gcsfs", "az": "adlfs"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "max_concurrency": 1,  # else the size is asked first: two requests for each photo
        # it is tried again here, the same for all kinds of stores
        "config_kwargs": {
            "connect_timeout": 10,
            "read_timeout": 30,
            "retries": {"mode": "standard", "max_attempts": 1},
        },
    }
}
_PAUSES_S = (0.5, 1.5, 4.0)  # before it is tried again
_DOWN_S = 30.0  # for so long after all tries failed, nothing is tried
_CONFLICTS = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "
    "for a public bucket FSSPEC_S3_ANON=true"
}


def url_of(place: str | bytes | os.PathLike[str]) -> str | None:
    """Return the URL that a place is, s3://bucket/key, whatever Path made of it; None of a file."""
    found = _URL.fullmatch(os.fsdecode(place))
    if found is None:
        return None
    parts = [part for part in found[2].split("/") if part not in ("", ".")]
    return f"{found[1]}://{'/'.join(parts)}"


def is_url(place: str | bytes | os.PathLike[str]) -> bool:
    """Tell whether a place is the URL of an object."""
    return url_of(place) is not None


def absolute(place: str | os.PathLike[str]) -> str:
    """Return a place as the collection has it: a URL, or the absolute path of a file."""
    return url_of(place) or os.path.abspath(place)


def spelled(place: str | os.PathLike[str]) -> str:
    """Return a place as it was given, a URL with both of its slashes."""
    return url_of(place) or os.fspath(place)


def link_to(place: str | os.PathLike[str]) -> str:
    """Return what a page has as a link to a place."""
    url = url_of(place)
    return Path(os.path.abspath(place)).as_uri() if url is None else quote(url, safe=":/")


def look_of(path: str | bytes | os.PathLike[str]) -> Look:
    """Return the size and time of a file or an object; of the latter, one request.

    Of an object, the part of the time below a second is of its ETag: that is exact, and the time is
    not. Raises OSError, ValueError for a name that cannot be, and ObjectStoreError.
    """
    url = url_of(path)
    if url is None:
        info = Path(os.fsdecode(path)).stat()
        return info.st_size, info.st_mtime_ns
    about = asked(url, lambda fs, key: fs.info(key, **_fresh(url)))
    if about["type"] != "file":
        raise IsADirectoryError(errno.EISDIR, "a folder, and no object", url)
    return _look(about)


def looks_of(paths: Sequence[bytes]) -> dict[bytes, Look | OSError | ObjectStoreError]:
    """Return for each object the look, or why there is none; all are asked for at once."""

    def ask(path: bytes) -> Look | OSError | ObjectStoreError:
        try:
            return look_of(path)
        except (OSError, ObjectStoreError) as err:
            return err

    if not paths:
        return {}
    with ThreadPoolExecutor(min(len(paths), AT_ONCE)) as pool:
        return dict(zip(paths, pool.map(ask, paths), strict=True))


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Tell whether a place is a folder, or a URL that objects lie below."""
    url = url_of(path)
    if url is None:
        return Path(path).is_dir()
    try:
        return bool(asked(url, lambda fs, key: fs.info(key, **_fresh(url)))["type"] != "file")
    except FileNotFoundError:
        return False


def read(url: str, most: int | None) -> bytes:
    """Return the first bytes of an object, as many as there are or are wanted; one request.

    most: None for all.

    Raises FileNotFoundError, PermissionError, and ObjectStoreError for what may pass.
    """
    try:
        # a range bounds what comes, whatever the size is by now
        ends = {} if most is None else {"start": 0, "end": most}
        return bytes(asked(url, lambda fs, key: fs.cat_file(key, **ends)))
    except OSError as err:
        if code_of(err) in ("InvalidRange", "416"):  # there is no first byte
            return b""
        raise


@dataclass(frozen=True, slots=True)
class Listed:
    """What is in a folder: names of folders, and of objects with their looks; both sorted.

    unnameable: objects whose keys have no path, such as a//b.
    """

    folders: list[str]
    objects: dict[str, Look]
    unnameable: int = 0


def listing(url: str) -> Listed:
    """Return what lies right below a URL: one request for a thousand names.

    Raises FileNotFoundError where nothing is, PermissionError, ObjectStoreError.
    """
    found = asked(url, lambda fs, key: fs.ls(key, detail=True, **_fresh(url)))
    _, _, root = url.partition("://")
    folders, objects, unnameable = [], dict[str, Look](), 0
    for about in found:
        name = about["name"].removeprefix(root).removeprefix("/")
        is_file = about["type"] == "file"
        if is_file and name in ("", "/"):  # what some programs put there to have an empty folder
            continue
        if name in ("", ".", "..") or "/" in name:
            unnameable += 1
        elif is_file:
            objects[name] = _look(about)
        else:
            folders.append(name)
    return Listed(sorted(folders), dict(sorted(objects.items())), unnameable)


def walk(url: str) -> Iterator[tuple[str, Listed]]:
    """Yield each folder at and below a URL, in the order of os.walk; a caller may take some out."""
    listed = listing(url)
    yield url, listed
    for name in listed.folders:
        yield from walk(f"{url}/{name}")


def _look(about: dict[str, Any]) -> Look:
    """Return the look of an object from what its store says of it."""
    names = ("LastModified", "last_modified", "mtime", "updated")
    written = next((about[name] for name in names if about.get(name)), None)
    if isinstance(written, str):
        written = datetime.fromisoformat(written)
    # listings know parts of a second that answers for one object do not
    seconds = int(written.timestamp()) if isinstance(written, datetime) else 0
    tag = str(about.get("ETag") or about.get("etag") or "").strip('"')
    below = int.from_bytes(blake2b(tag.encode(), digest_size=8).digest(), "big") % 10**9
    return int(about["size"]), seconds * 10**9 + below


_STORES: dict[tuple[str, int], Any] = {}
_DOWN: dict[str, tuple[float, str]] = {}
_LOCK = threading.Lock()


def asked(url: str, ask: Callable[[Any, str], T]) -> T:
    """Return what a store answers, asked again where that may help.

    Raises FileNotFoundError, PermissionError for this object, and ObjectStoreError.
    """
    scheme, _, key = url.partition("://")
    since, why = _DOWN.get(scheme, (0.0, ""))
    if why and time.monotonic() - since < _DOWN_S:
        raise ObjectStoreError(f"{url}: {why}")
    store = _store(scheme)
    for pause in (*_PAUSES_S, None):
        try:
            return ask(store, key)
        except Exception as err:  # of botocore, aiohttp, gcsfs, adlfs: no common base
            known = _known(err, url, scheme)
            if known is err:
                raise
            if known is not None:
                raise known from err
            if pause is None:
                text = one_line(str(err) or type(err).__name__)
                why = f"cannot be reached: {text}"
                _DOWN[scheme] = time.monotonic(), why
                raise ObjectStoreError(f"{url}: {why}") from err
            time.sleep(pause)
    raise AssertionError


def _known(err: Exception, url: str, scheme: str) -> Exception | None:
    """Return the error that trying again would not change; None of others."""
    code, kind = code_of(err), type(err).__name__
    if isinstance(err, FileNotFoundError):
        what = "no such bucket" if code == "NoSuchBucket" else "no such object"
        return FileNotFoundError(errno.ENOENT, what, url)
    if isinstance(err, PermissionError):
        if code in ("AccessDenied", "InvalidObjectState", "403", ""):
            return PermissionError(errno.EACCES, "access denied", url)
        return ObjectStoreError(f"{url}: access denied ({one_line(code)}): see your credentials")
    if kind in ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"):
        how = _CREDENTIALS.get(scheme, "see the documentation of its package")
        return ObjectStoreError(f"{url}: no credentials: {how}")
    if code in ("InvalidRange", "416", "304", "NotModified"):
        return err
    if code in _CONFLICTS or isinstance(err, FileExistsError):
        return FileExistsError(errno.EEXIST, "somebody else wrote there", url)
    if isinstance(err, ValueError) or kind in ("ParamValidationError", "ProfileNotFound"):
        return ObjectStoreError(f"{url}: {one_line(str(err))}")
    return None


def code_of(err: BaseException | None) -> str:
    """Return the code that S3 gave an error, "" where it gave none."""
    while err is not None:
        response = getattr(err, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        err = err.__cause__
    return ""


def _fresh(url: str) -> dict[str, bool]:
    """Return what makes a store ask anew, and not remember."""
    return {"refresh": True} if url.startswith("s3:") else {}


def _store(scheme: str) -> Any:
    """Return this process's connection to a kind of store. Raises MissingPackageError."""
    with _LOCK:
        key = scheme, os.getpid()
        if key not in _STORES:
            try:
                import fsspec

                # fsspec's own way to keep them makes one for each thread
                store = fsspec.filesystem(
                    scheme,
                    skip_instance_cache=True,
                    use_listings_cache=False,
                    **_OPTIONS.get(scheme, {}),
                )
            except ImportError as err:
                how = f"pip install {_PACKAGES[scheme]}"
                raise MissingPackageError(f"{scheme}:// needs another package: {how}") from err
            store.retries = 1
            _STORES[key] = store
        return _STORES[key]
