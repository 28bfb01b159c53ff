"""Call a library in C++: silenced, its errors in our words, its files in a scratch folder."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vesearch.errors import VesearchError
from vesearch.system.printable import one_line
from vesearch.system.quiet import quiet

# what the libraries raise, beside an OSError of our own making
ERRORS = (RuntimeError, ValueError, MemoryError, IndexError)


@contextmanager
def foreign(library: str, action: str) -> Iterator[None]:
    """Silence a library and turn what it raises into a VesearchError of one line."""
    error: Exception | None = None
    with quiet() as captured:
        try:
            yield
        except ERRORS as err:
            error = err
    if error is not None:
        raise failure(library, action, error, captured.last_line) from error


def failure(library: str, action: str, error: Exception, printed: str = "") -> VesearchError:
    """Return what a library raised, and printed, as an error of one line."""
    reason = one_line(str(error)) or type(error).__name__
    told = f" [{printed}]" if printed else ""
    return VesearchError(f"{library} cannot {action}: {reason}{told}")


def scratch(owner: object) -> Path:
    """Return a path in a temporary folder that goes when owner does."""
    home = Path(tempfile.mkdtemp(prefix="vesearch-ngt-"))
    weakref.finalize(owner, shutil.rmtree, home, ignore_errors=True)
    return home / "ngt"


def redirect(path: Path, folder: Path) -> None:
    """Let a path, whatever it was, lead to a folder."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
    path.symlink_to(folder.absolute())


def installed(package: str) -> str:
    """Return the version of a package, "unknown" where it was built from source."""
    from importlib.metadata import PackageNotFoundError, version  # only builds ask

    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
