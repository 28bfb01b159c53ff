"""Read and write objects on the condition that nobody else wrote meanwhile (S3's ETags)."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from vesearch.errors import ObjectStoreError
from vesearch.system.objects import asked, code_of


@dataclass(frozen=True, slots=True)
class Got:
    """An object: its bytes, its tag, and how many seconds ago it was written, by its server."""

    data: bytes
    tag: str
    age_s: float


def get(url: str, *, but: str | None = None) -> Got | None:
    """Return an object; None where it still has the tag `but`.

    Raises FileNotFoundError, PermissionError, ObjectStoreError.
    """
    condition = {} if but is None else {"IfNoneMatch": but}
    try:
        return asked(url, lambda fs, key: _got(fs, key, condition))
    except OSError as err:
        if code_of(err) in ("304", "NotModified"):
            return None
        raise


def put(url: str, data: bytes, *, over: str | None) -> str:
    """Write an object over the one that has a tag, or where there is none; return its tag.

    Raises FileExistsError where another is there, FileNotFoundError where the one is gone.
    """
    condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
    return asked(url, lambda fs, key: _put(fs, key, data, condition))


def put_anyway(url: str, data: bytes) -> None:
    """Write an object, whatever is there."""
    asked(url, lambda fs, key: _put(fs, key, data, {}))


def delete(url: str, *, tag: str | None = None) -> None:
    """Remove an object, if it has this tag; nothing there is fine. Raises FileExistsError."""
    condition = {} if tag is None else {"IfMatch": tag}
    try:
        asked(url, lambda fs, key: _call(fs, "delete_object", key, **condition))
    except FileNotFoundError:
        return


def names_below(url: str) -> list[str]:
    """Return the names of all objects below a URL, from there; a request for each thousand."""
    _, _, root = url.partition("://")
    try:
        found = asked(url, lambda fs, key: fs.find(key, refresh=True))
    except FileNotFoundError:
        return []
    return [str(name).removeprefix(f"{root}/") for name in found]


def check_kind(url: str) -> None:
    """Raise ObjectStoreError unless a URL is of a kind that knows conditions."""
    if not url.startswith("s3://"):
        raise ObjectStoreError(f"{url}: a store can be in a folder or on s3://, not there")


def _call(fs: Any, method: str, path: str, **options: Any) -> dict[str, Any]:
    bucket, _, key = path.partition("/")
    answer: dict[str, Any] = fs.call_s3(method, Bucket=bucket, Key=key, **options)
    return answer


def _put(fs: Any, path: str, data: bytes, condition: dict[str, str]) -> str:
    return str(_call(fs, "put_object", path, Body=data, **condition)["ETag"])


def _got(fs: Any, path: str, condition: dict[str, str]) -> Got:
    from fsspec.asyn import sync

    async def read() -> tuple[dict[str, Any], bytes]:
        bucket, _, key = path.partition("/")
        answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, **condition)
        async with answer["Body"] as body:
            return answer, await body.read()

    answer, data = sync(fs.loop, read)
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return Got(data, str(answer["ETag"]), (now - answer["LastModified"]).total_seconds())
