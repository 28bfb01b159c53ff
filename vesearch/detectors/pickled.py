"""Read a pickle of arrays, and of nothing else: detectron2's published weights are such files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from vesearch.errors import ModelError

# what a pickled dictionary of arrays names; none of it runs code of the file's choosing
_HARMLESS = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def read_arrays(path: Path) -> Any:
    """Return what a pickle holds: numbers, texts, arrays, lists and dictionaries.

    Raises ModelError for anything else: such a file could run code.
    """
    try:
        with path.open("rb") as file:
            return _Arrays(file, encoding="latin1").load()
    except pickle.UnpicklingError as err:
        raise ModelError(f"{path} holds more than arrays, so it was not read: {err}") from err
    except Exception as err:  # a damaged pickle can raise nearly anything
        raise ModelError(f"{path} cannot be read: {type(err).__name__}: {err}") from err
