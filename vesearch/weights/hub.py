"""Weights of timm models: files of the Hugging Face hub, in its own cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vesearch.errors import DownloadError, MissingPackageError, UnknownNameError
from vesearch.weights import zoo
from vesearch.weights.download import announce, reason, say, size_of, unreachable

FILE = "model.safetensors"
_PUBLIC = "https://huggingface.co"
_TRUE = ("1", "ON", "YES", "TRUE")  # as the hub's client reads its variables
_ADVICE = (
    "give the file with --set embed.weights=FILE; a mirror can be named with HF_ENDPOINT=https://…"
)


def endpoint() -> str:
    """Return the hub's URL: $HF_ENDPOINT, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or _PUBLIC).rstrip("/")


def fetch(model: str) -> Path:
    """Bring the weights of a timm model, "vit_small_patch14_dinov2.lvd142m", into the hub's cache.

    Raises UnknownNameError, DownloadError, or MissingPackageError without the hub's client.
    """
    if not re.fullmatch(r"[\w.-]+", model):
        raise UnknownNameError(f"no timm model {model!r}; the names: timm.list_pretrained()")
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as err:
        raise MissingPackageError("timm models need: pip install timm") from err
    there = zoo.timm_files().get(model)
    if there is not None:
        say(f"{there}: is there already")
        return there
    url = f"{endpoint()}/timm/{model}/resolve/main/{FILE}"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise unreachable(url, OSError("HF_HUB_OFFLINE is set"), _ADVICE)
    # asked here first: offline, the client would try for half a minute, with a page of warnings
    size = size_of(url, advice=_ADVICE)
    announce(f"timm:{model}", size, url, zoo.hub_cache())
    try:
        got = hf_hub_download(f"timm/{model}", FILE, cache_dir=zoo.hub_cache(), endpoint=endpoint())
    except errors.GatedRepoError as err:
        raise DownloadError(
            f"{url}: its terms must be accepted at {endpoint()}/timm/{model}, and HF_TOKEN set"
        ) from err
    except errors.LocalEntryNotFoundError as err:
        why = err.__cause__ or err
        if isinstance(why, OSError) and not isinstance(why, ConnectionError):  # it did answer
            raise DownloadError(f"{url}: {reason(why)}") from err
        raise unreachable(url, why, _ADVICE) from err
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError) as err:
        raise UnknownNameError(
            f"{url}: there is no such model; the names: timm.list_pretrained()"
        ) from err
    except Exception as err:  # its HTTP library, and with it the errors, change with the version
        raise DownloadError(
            f"{url}: {type(err).__name__}: {reason(err)}; the same command tries again"
        ) from err
    return Path(got)
