"""Visual entity search: folders of photos become a searchable collection of entities."""

TYPE_CHECKING = False  # nothing is imported here: decoding processes start with no other folder
if TYPE_CHECKING:
    from typing import Any

    from vesearch.collection import Collection
    from vesearch.errors import VesearchError
    from vesearch.question import (
        Boxed,
        Masked,
        Numbered,
        Pointed,
        Question,
        Stored,
        Where,
        Whole,
    )

__all__ = [
    "Boxed",
    "Collection",
    "Masked",
    "Numbered",
    "Pointed",
    "Question",
    "Stored",
    "VesearchError",
    "Where",
    "Whole",
    "__version__",
]
__version__ = "0.1.0"
_HOMES = {"Collection": "vesearch.collection", "VesearchError": "vesearch.errors"}


def __getattr__(name: str) -> "Any":
    """Import what is asked for (PEP 562): the command line starts without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "vesearch.question")), name)


def __dir__() -> list[str]:
    """Return what can be asked for."""
    return sorted({*globals(), *__all__})
