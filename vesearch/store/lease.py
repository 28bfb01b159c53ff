"""The write lock of a store on an object store: an object that its holder keeps renewing."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from vesearch.errors import ObjectStoreError, StoreError, StoreLockedError
from vesearch.store.lock import Writer
from vesearch.system import conditional
from vesearch.system.conditional import Got
from vesearch.system.printable import one_line

RENEW_S = 20.0
_LIVES = 3  # renewals that may fail before another may take over

logger = logging.getLogger(__name__)


class Lease:
    """A lock that one process holds at a time, anywhere; one that is killed loses it in a minute.

    Time is that of the object store, so clocks need not agree.
    """

    def __init__(self, url: str) -> None:
        self._store = url
        self._url = f"{url}/lock"
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._tag, self._renewed, self._beats = "", 0.0, 0
        self._progress = 0, 0
        self._about: dict[str, Any] = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it. Raises StoreLockedError naming the holder, and StoreError."""
        self._about = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "token": secrets.token_hex(8),
            "renewed_every_s": RENEW_S,
        }
        self._take()
        self._over.clear()
        renewer = threading.Thread(target=self._keep, daemon=True)
        renewer.start()
        try:
            yield
        finally:
            self._over.set()
            renewer.join()
            with contextlib.suppress(OSError, ObjectStoreError):  # another's, or it runs out
                conditional.delete(self._url, tag=self._tag)

    def check(self) -> None:
        """Raise StoreError where another may hold it by now: nothing may be written any more."""
        with self._lock:
            late = time.monotonic() - self._renewed > (_LIVES - 1) * RENEW_S
        if late:
            raise self.lost()

    def lost(self) -> StoreError:
        """Return the error of a writer that another may have taken the place of."""
        return StoreError(
            f"store {self._store} may have another writer by now, as this one was not heard of; "
            "what was committed is there, and the same command continues"
        )

    def tell(self, done: int, total: int) -> None:
        """Note how far its holder is; it is told with the next renewal."""
        self._progress = done, total

    def writer(self) -> Writer | None:
        """Return who holds it, None where nobody does."""
        try:
            got = conditional.get(self._url)
        except (OSError, ObjectStoreError):
            return None
        about = _read(got)
        if got is None or about is None or got.age_s > _LIVES * about["renewed_every_s"]:
            return None
        return Writer(about["pid"], about["done"], about["total"])

    def _take(self) -> None:
        began = time.monotonic()
        try:
            tag = self._put(None)
        except FileExistsError:
            tag = self._take_over()
        except OSError as err:
            raise StoreError(f"cannot write to {self._url}: {err.strerror}") from err
        with self._lock:
            self._tag, self._renewed = tag, began

    def _take_over(self) -> str:
        """Take it from a holder that is not heard of any more. Raises StoreLockedError."""
        try:
            got = conditional.get(self._url)
            about = _read(got)
            assert got is not None
            if about is not None and about["token"] == self._about["token"]:
                return got.tag  # ours: the answer to an earlier try was lost
            left_s = _LIVES * (RENEW_S if about is None else about["renewed_every_s"]) - got.age_s
            if left_s >= 0:
                raise self._held_by(about, left_s)
            logger.warning("the writer before this one was not heard of for %.0f s", got.age_s)
            return self._put(got.tag)
        except (FileNotFoundError, FileExistsError) as err:
            raise self._held_by(None, 0.0) from err

    def _held_by(self, about: dict[str, Any] | None, left_s: float) -> StoreLockedError:
        who = "another process"
        if about is not None:
            who = f"process {about['pid']} on {one_line(about['host'])}"
        wait = f", or {left_s + 1:.0f} s if it was killed" if left_s > 0 else ""
        return StoreLockedError(
            f"store {self._store} is being written by {who}; wait for it to end{wait}"
        )

    def _keep(self) -> None:
        while not self._over.wait(RENEW_S):
            began = time.monotonic()
            try:
                tag = self._put(self._tag)
            except ObjectStoreError:
                continue  # check() counts for how long
            except OSError:
                got = self._own()
                if got is None:
                    with self._lock:
                        self._renewed = float("-inf")
                    return
                tag = got.tag
            with self._lock:
                self._tag, self._renewed = tag, began

    def _own(self) -> Got | None:
        """Return the object where it is still ours: the answer to a renewal may be lost."""
        with contextlib.suppress(OSError, ObjectStoreError):
            got = conditional.get(self._url)
            about = _read(got)
            if about is not None and about["token"] == self._about["token"]:
                return got
        return None

    def _put(self, over: str | None) -> str:
        self._beats += 1  # else each renewal would have the tag of the one before
        done, total = self._progress
        about = self._about | {"beat": self._beats, "done": done, "total": total}
        return conditional.put(self._url, json.dumps(about).encode(), over=over)


def _read(got: Got | None) -> dict[str, Any] | None:
    """Return what a lock's object says; None where it is none of ours."""
    if got is None:
        return None
    try:
        about = json.loads(got.data)
        return {
            "host": str(about["host"]),
            "pid": int(about["pid"]),
            "token": str(about["token"]),
            "renewed_every_s": float(about["renewed_every_s"]),
            "done": int(about["done"]),
            "total": int(about["total"]),
        }
    except (ValueError, KeyError, TypeError):
        return None
