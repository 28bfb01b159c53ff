"""Ask a web server for a file; what goes wrong becomes one line that says how to go on."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from typing import IO, Any
from urllib.parse import urlsplit

import vesearch
from vesearch.errors import DownloadError
from vesearch.system.printable import one_line

TIMEOUT_S = 30.0  # without a single byte


def open_url(url: str, headers: Mapping[str, str], *, method: str = "GET") -> HTTPResponse:
    """Return the response, redirects followed; urllib's errors are the caller's.

    Raises DownloadError for what is no http, and for a redirect that gives up encryption.
    """
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise DownloadError(f"{url}: only http:// and https:// can be fetched")
    # identity: a compressed body would have neither the length nor the digest of the file
    own = {"User-Agent": f"vesearch/{vesearch.__version__}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=own | dict(headers), method=method)
    opener = urllib.request.build_opener(_Redirects)
    response: HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
    return response


def size_of(url: str, *, advice: str = "") -> int | None:
    """Ask for a file's size in bytes; None where the server does not say.

    advice: see `unreachable`. Raises DownloadError when there is no answer.
    """
    try:
        with open_url(url, {}, method="HEAD") as response:
            length = response.headers.get("Content-Length", "")
    except urllib.error.HTTPError as err:
        err.close()
        return None
    except (OSError, HTTPException) as err:
        raise unreachable(url, err, advice) from err
    return int(length) if length.isdigit() else None


def unreachable(url: str, err: BaseException, advice: str) -> DownloadError:
    """Return the error that names the host, and what to do on a machine that is offline.

    advice: how to use the file once it was fetched elsewhere, as a clause after "and".
    """
    if isinstance(_inner(err), ssl.SSLError):
        return DownloadError(f"cannot reach {host(url)} safely: {reason(err)}")
    then = advice or "give the file with --set detect.weights=FILE or --set embed.weights=FILE"
    return DownloadError(
        f"cannot reach {host(url)} ({reason(err)}): offline? fetch {url} on another machine "
        f"and {then}"
    )


def host(url: str) -> str:
    """Return a URL's host, and port where it names one."""
    return urlsplit(url).netloc.rpartition("@")[2]


def reason(err: BaseException) -> str:
    """Return what went wrong in one line."""
    inner = _inner(err)
    text = (inner.strerror if isinstance(inner, OSError) else None) or str(inner)
    return one_line(text) or type(inner).__name__


def _inner(err: BaseException) -> BaseException | str:
    return err.reason if isinstance(err, urllib.error.URLError) else err


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none that gives up encryption."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Any,
        newurl: str,
    ) -> urllib.request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise DownloadError(f"{req.full_url}: redirects to {newurl}, without encryption")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
