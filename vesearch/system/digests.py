"""Digests: of files, of settings, and of what stands for a model."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crc32(path: Path) -> int:
    """Return the CRC-32 of a file's bytes."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def digest_of_bytes(data: bytes) -> str:
    """Return what tells a file's bytes from others (BLAKE2b, 128 bits), in hex."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def fingerprint_of(*parts: object) -> str:
    """Return a short hex digest of JSON-able parts, such as settings."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def version_digest(version: str, *parts: str) -> str:
    """Return what stands for a model in fingerprints: its adapter's version, and its weights."""
    return hashlib.sha256(" ".join([version, *parts]).encode()).hexdigest()[:16]
