"""Every error that vesearch raises on purpose.

VesearchError               a user can act on it; the command line prints it as one line
├── ConfigError             a setting is unknown, of the wrong type or out of range
├── UnknownNameError        a registry has no such name
├── ArgumentError           something that a command was given cannot be used
├── MissingPackageError     an optional package is not installed
├── ImageError              a file is not usable as an image; carries the row's status
│   └── ObjectStoreError    what it is on cannot be asked: nothing is known of the image itself
├── ModelError              weights or a network cannot be used
│   └── DownloadError       a file could not be fetched
│       └── DigestError     what was fetched is not the file that was expected
└── StoreError              the store cannot be used as asked
    ├── StoreMissingError   there is no store, or not yet the part that is needed
    ├── StoreLockedError    another process is writing
    ├── StoreMismatchError  the store was made with other settings or weights
    ├── IndexServerError    the server that has the index does not answer
    └── StoreDamagedError   a file of the store cannot be read
        └── CatalogDamagedError   it is the catalogue, which is but a cache
"""

from __future__ import annotations

from typing import Literal

# why a file is no usable image; unsupported: of a format that is not read, or not yet
Unusable = Literal["unreadable", "too_large", "unsupported"]


class VesearchError(Exception):
    """Base of all errors that a user can act on."""


class ConfigError(VesearchError):
    """A setting is unknown, of the wrong type or out of range."""


class UnknownNameError(VesearchError):
    """A registry has no such name."""


class ArgumentError(VesearchError):
    """Something that a command was given cannot be used."""


class MissingPackageError(VesearchError):
    """An optional package is not installed."""


class ImageError(VesearchError):
    """A file is not usable as an image.

    status: the value for the images table.
    """

    def __init__(self, message: str, *, status: Unusable = "unreadable") -> None:
        super().__init__(message)
        self.status = status


class ObjectStoreError(ImageError):
    """An object store cannot be asked; that says nothing of the photos on it."""


class ModelError(VesearchError):
    """Weights or a network cannot be used."""


class DownloadError(ModelError):
    """A file could not be fetched."""


class DigestError(DownloadError):
    """What was fetched is not the file that was expected."""


class StoreError(VesearchError):
    """The store cannot be used as asked."""


class StoreMissingError(StoreError):
    """There is no store, or not yet the part of it that is needed."""


class StoreLockedError(StoreError):
    """Another process is writing to the store."""


class StoreMismatchError(StoreError):
    """The store was made with other settings or weights."""


class IndexServerError(StoreError):
    """The server that has the index does not answer, or refuses."""


class StoreDamagedError(StoreError):
    """A file of the store cannot be read."""


class CatalogDamagedError(StoreDamagedError):
    """The catalogue cannot be read; what it was made of may be whole."""
