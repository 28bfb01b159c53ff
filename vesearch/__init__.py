"""Visual entity search: folders of photos become a searchable collection of entities."""

TYPE_CHECKING = False  # nothing is imported here: decoding processes start with no other folder
if TYPE_CHECKING:
    from typing import Any

    from vesearch.collection import Collection
    from vesearch.errors import VesearchError

__all__ = ["Collection", "VesearchError", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> "Any":
    """Import what is asked for (PEP 562): the command line starts without it."""
    if name == "Collection":
        from vesearch.collection import Collection

        return Collection
    if name == "VesearchError":
        from vesearch.errors import VesearchError

        return VesearchError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
