"""What every stage works with: a store, its settings, and the models they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from vesearch.config import Config, Scalar, load_config, result_settings
from vesearch.detectors import DETECTORS, Detector
from vesearch.embedders import EMBEDDERS, Embedder
from vesearch.store import Store, fingerprint


class Job:
    """A store and the settings it is used with; models are made on first use."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.store = Store(Path(config.run.store))

    @cached_property
    def detector(self) -> Detector:
        """The configured detector. Raises UnknownNameError or ConfigError."""
        detect = self.config.detect
        made: Detector = DETECTORS.create(
            detect.detector,
            max_entities=detect.max_entities,
            min_area=detect.min_area,
            device=self.config.run.device,
        )
        return made

    @cached_property
    def embedder(self) -> Embedder:
        """The configured embedder. Raises UnknownNameError or ConfigError."""
        embed = self.config.embed
        made: Embedder = EMBEDDERS.create(
            embed.embedder,
            precision=embed.precision,
            batch_size=embed.batch_size,
            device=self.config.run.device,
        )
        return made

    def settings(self) -> dict[str, Any]:
        """Return what a store is made with: settings that change results, and weights."""
        sections = [result_settings(self.config, s) for s in ("images", "detect", "crop", "embed")]
        settings: dict[str, Any] = {k: v for section in sections for k, v in section.items()}
        settings["detect.weights"] = self.detector.weights_digest
        settings["embed.weights"] = self.embedder.weights_digest
        return settings

    @cached_property
    def stamps(self) -> dict[str, str]:
        """Return the fingerprint of each kind of shard; each includes the one before it."""
        settings, stamp, stamps = self.settings(), "", {}
        for kind, section in (
            ("images", "images"),
            ("entities", "detect"),
            ("crops", "crop"),
            ("embeddings", "embed"),
        ):
            own = {k: v for k, v in settings.items() if k.startswith(f"{section}.")}
            stamps[kind] = stamp = fingerprint(kind, own, stamp)
        return stamps

    def open_for_writing(self) -> None:
        """Create the store or check its settings; call it with the lock held."""
        self.store.ensure(self.settings())

    def open_for_reading(self) -> None:
        """Check that the store exists and was made with these settings."""
        self.store.settings()
        self.store.ensure(self.settings())

    def pending(self, kind: str, upstream: str) -> list[int]:
        """Return the shards whose upstream table is there but whose own is missing or outdated."""
        stamp = self.stamps[kind]
        return [s for s in self.store.shards(upstream) if not self.store.is_done(kind, s, stamp)]


def configure(
    path: Path | None, overrides: Sequence[str], flags: Mapping[str, Scalar | None]
) -> Config:
    """Build the settings for a store; what is not given is as the store was made with.

    Raises ConfigError, or StoreDamagedError for a store whose settings cannot be read.
    """
    config = load_config(path, overrides=overrides, flags=flags)
    store = Store(Path(config.run.store))
    if not store.exists():
        return config
    return load_config(path, overrides=overrides, flags=flags, remembered=store.settings())
