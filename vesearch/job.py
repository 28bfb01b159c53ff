"""What every stage works with: a store, its settings, and the models they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vesearch.config import (
    Config,
    DetectSettings,
    Kept,
    Scalar,
    as_before,
    kept_settings,
    load_config,
    names_in,
)
from vesearch.detectors import DETECTORS, Detector
from vesearch.detectors.selection import Selection
from vesearch.embedders import EMBEDDERS, Embedder
from vesearch.errors import ConfigError, StoreError, StoreMismatchError
from vesearch.networks import devices
from vesearch.store.remote import opened
from vesearch.store.rows import ImageRows
from vesearch.store.shards import Store
from vesearch.system.digests import fingerprint_of
from vesearch.system.spool import Spool

if TYPE_CHECKING:  # a photo of the collection is not decoded
    from vesearch.photos.pool import Decoders

# whose settings make a store what it is, and the tables that are made with them
_TABLES = {"images": "images", "detect": "entities", "crop": "crops", "embed": "embeddings"}
_DIGESTS = ("detect.weights_digest", "embed.weights_digest")
# what a section's networks compute in, and what it was before that was recorded
_PRECISIONS = {"detect": "float32", "embed": None}

Section = Literal["detect", "embed"]


class Job:
    """A store and the settings it is used with; models are made on first use.

    at_once: how many threads will ask the detector at the same time.
    """

    def __init__(self, config: Config, *, at_once: int = 1) -> None:
        self.config = config
        self.at_once = at_once
        self.store = opened(config.run.store, index_server=config.index.server)

    @cached_property
    def detector(self) -> Detector:
        """The configured detector. Raises UnknownNameError or ConfigError."""
        detect = self.config.detect
        given: dict[str, Any] = _given(model=detect.model, weights=detect.weights)
        if detect.effort != DetectSettings().effort:  # else those that know none are not asked
            given["effort"] = detect.effort
        made: Detector = DETECTORS.create(
            detect.detector,
            selection=Selection(
                max_entities=detect.max_entities,
                min_area=detect.min_area,
                min_score=detect.min_score,
                stuff=detect.stuff,
                exclude_labels=names_in(detect.exclude_labels),
            ),
            offered={
                "engine": self.config.run.engine,
                "precision": self._precision("detect"),
                "at_once": self.at_once,
            },
            device=self.config.run.device,
            **given,
        )
        return made

    @cached_property
    def embedder(self) -> Embedder:
        """The configured embedder. Raises UnknownNameError or ConfigError."""
        embed = self.config.embed
        given: dict[str, Any] = _given(weights=embed.weights)
        made: Embedder = EMBEDDERS.create(
            embed.embedder,
            offered={"mask_weight": embed.mask_weight, "engine": self.config.run.engine},
            precision=self._precision("embed"),
            batch_size=embed.batch_size,
            device=self.config.run.device,
            **given,
        )
        return made

    def _precision(self, section: Section) -> str:
        """Return the precision that is asked for; "auto" is that of what the store has."""
        asked = str(getattr(self.config, section).precision)
        # a process elsewhere is told, and has no store to look into
        made_with = self._made_with(section) if asked == "auto" else None
        if made_with is None:
            return asked
        return str(made_with.get(f"{section}.precision", _PRECISIONS[section] or asked))

    def resolved(self) -> Config:
        """Return the settings for a process elsewhere, which need not have the store.

        The precision is that in which the models compute here, whatever suits a processor there.
        """
        detect, embed = self.config.detect, self.config.embed
        detect = replace(detect, model=_absolute(detect.model), weights=_absolute(detect.weights))
        precision = getattr(self.detector, "computes_in", detect.precision)
        detect = replace(detect, precision=precision)
        weights = _absolute(embed.weights)
        embed = replace(embed, weights=weights, precision=self.embedder.computes_in)
        return replace(self.config, detect=detect, embed=embed)

    def models(self) -> dict[str, str]:
        """Return what a process elsewhere must have, too: digests, and precisions."""
        detector, embedder = self.detector, self.embedder
        return {
            "detect.weights_digest": detector.weights_digest,
            "embed.weights_digest": embedder.weights_digest,
            "detect.precision": getattr(detector, "computes_in", "any"),
            "embed.precision": embedder.computes_in,
        }

    def batch_size(self, section: Section) -> int:
        """Return how many images or crops go through a network at once; 0 is what fits it."""
        asked = getattr(self.config, section).batch_size
        return asked or devices.batch_size(section, self.config.run.device)

    @cached_property
    def fetched(self) -> Spool:
        """Photos that were fetched to be hashed, until they are decoded."""
        return Spool()

    @property
    def decoders(self) -> Decoders:
        """The processes that decode photos."""
        from vesearch.photos import pool

        return pool.shared(self.config.images, self.config.run.workers)

    def settings(self) -> dict[str, Any]:
        """Return what a store is made with: settings that change results, and digests."""
        digests = (self.detector.weights_digest, self.embedder.weights_digest)
        settings = self._kept("as result") | dict(zip(_DIGESTS, digests, strict=True))
        for section, model in (("detect", self.detector), ("embed", self.embedder)):
            key, before = f"{section}.precision", _PRECISIONS[section]
            made_with = self._made_with(section)
            # of embeddings of earlier versions none is known
            if made_with is None or key in made_with or before is not None:
                computes_in = getattr(model, "computes_in", before)
                settings |= {} if computes_in == before else {key: computes_in}
        return settings

    def _made_with(self, section: str) -> dict[str, Any] | None:
        """Return what the store was made with; None where it has none of that yet."""
        if not self.store.has_any(_TABLES[section]):
            return None
        try:
            return self.store.settings()
        except StoreError:
            return None

    def places(self) -> dict[str, Any]:
        """Return where the models are: remembered, but free to change while digests do not."""
        return {key: _absolute(text) for key, text in self._kept("as place").items()}

    def _kept(self, kept: Kept) -> dict[str, Any]:
        sections = [kept_settings(self.config, section, kept) for section in _TABLES]
        return {key: value for section in sections for key, value in section.items()}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprint of each kind of shard; each includes the one before it."""
        return _fingerprints(self.settings())

    def recorded_fingerprints(self) -> dict[str, str]:
        """Return the same of what the store remembers; the models need not be there."""
        places = self.places()
        return _fingerprints({k: v for k, v in self.store.settings().items() if k not in places})

    def open_for_writing(self) -> None:
        """Create the store or check its settings; call it with the lock held."""
        if self.store.exists() or self.store.has_any(ImageRows.KIND):
            self.open_for_reading()
        self.store.remember(self.settings() | self.places())

    def open_without_models(self) -> None:
        """Check that the store exists and was made with these settings; no weights are read.

        Raises StoreMissingError, or StoreMismatchError naming what differs.
        """
        settings = self._kept("as result")
        known = self.store.settings().keys() | settings
        open_ = {key for key in known if not _binds(self.store, key)}
        ignored = {*open_, *_DIGESTS, *self.places()}
        for section, before in _PRECISIONS.items():
            key, asked = f"{section}.precision", getattr(self.config, section).precision
            is_known = key in known or before is not None
            if asked == "auto" or not is_known or not _binds(self.store, key):
                ignored.add(key)
            settings |= {key: asked}
        before_all = {f"{section}.precision": before for section, before in _PRECISIONS.items()}
        self.store.refuse_other(settings, ignoring=ignored, unrecorded=before_all)

    def open_for_reading(self) -> None:
        """Check that the store exists and was made with these settings and weights.

        Raises StoreMissingError, or StoreMismatchError naming what differs.
        """
        # names before weights: other models' weights need not even be there
        self.open_without_models()
        made_with, now = self.store.settings(), self.settings() | self.places()
        for digest in (digest for digest in _DIGESTS if _binds(self.store, digest)):
            if made_with.get(digest) != now[digest]:
                section = digest.partition(".")[0]
                if not any(settings.get(f"{section}.weights") for settings in (made_with, now)):
                    raise _of_another_version(self.store, made_with, section)
                was, is_ = (_weights_name(s, digest) for s in (made_with, now))
                raise StoreMismatchError(
                    f"store {self.store.name} was made with {was}, not {is_}: "
                    f"use those, or another --store"
                )

    def pending(self, kind: str, upstream: str, *, fingerprint: str | None = None) -> list[int]:
        """Return the shards whose upstream table is there but whose own is missing or outdated.

        fingerprint: of the tables that count as done; None: those that would be made now.
        A shard of the log without images of its own (copies, removals) has no other tables.
        """
        wanted = self.fingerprints[kind] if fingerprint is None else fingerprint
        shards = self.store.shards(upstream)
        open_ = [s for s in shards if not self.store.is_done(kind, s, wanted)]
        if upstream != ImageRows.KIND:
            return open_
        return [s for s in open_ if self.store.counts(ImageRows, s)["images"]]


def _of_another_version(
    store: Store, made_with: Mapping[str, Any], section: str
) -> StoreMismatchError:
    """Return the error for a store whose model's own weights were others."""
    kind = {"detect": "detector", "embed": "embedder"}[section]
    name = made_with.get(f"{section}.{kind}")
    return StoreMismatchError(
        f"store {store.name} was made with the {kind} {name!r} of another version of vesearch: "
        "make a new one with this (vesearch ingest FOLDER --store NEW), or keep to that version"
    )


def _fingerprints(settings: Mapping[str, Any]) -> dict[str, str]:
    fingerprint, fingerprints = "", {}
    for section, kind in _TABLES.items():
        own = {k: v for k, v in settings.items() if k.startswith(f"{section}.")}
        fingerprints[kind] = fingerprint = fingerprint_of(kind, own, fingerprint)
    return fingerprints


def _binds(store: Store, key: str) -> bool:
    """Return whether there is a table that was made with this setting; until then it may change."""
    return store.has_any(_TABLES.get(key.partition(".")[0], "images"))


def _given(**options: str) -> dict[str, str]:
    """Leave out what is not set: not every model takes it."""
    return {name: value for name, value in options.items() if value}


def _absolute(place: str) -> str:
    """Return a file's absolute path, so that it is found from any folder; names stay."""
    path = Path(place).expanduser()
    return str(path.absolute()) if place and path.exists() else place


def _weights_name(settings: Mapping[str, Any], digest: str) -> str:
    """Return "embed.weights r50.safetensors (1a2b3c4d)", or the model whose own they are."""
    section = digest.partition(".")[0]
    kind = {"detect": "detector", "embed": "embedder"}[section]
    weights = settings.get(f"{section}.weights")
    name = Path(weights).name if weights else f"of {settings.get(f'{section}.{kind}')}"
    return f"{section}.weights {name} ({str(settings.get(digest))[:8]})"


def configure(
    path: Path | None, overrides: Sequence[str], flags: Mapping[str, Scalar | None]
) -> Config:
    """Build the settings for a store; what is not given is as the store was made with.

    Raises ConfigError, or StoreDamagedError for a store whose settings cannot be read.
    """
    config = load_config(path, overrides=overrides, flags=flags)
    remembered = remembered_by(config)
    return load_config(path, overrides=overrides, flags=flags, remembered=remembered)


def remembered_by(config: Config) -> dict[str, Any]:
    """Return what the store that is meant was made with, and what binds it therefore.

    Raises StoreDamagedError for a store whose settings cannot be read, and ConfigError for one that
    asks for code to be run.
    """
    store = opened(config.run.store)
    if not store.exists():
        return {}
    recorded = {k: v for section in _TABLES for k, v in as_before(section).items()}
    recorded |= store.settings()
    remembered = {key: v for key, v in recorded.items() if _binds(store, key)}
    model = str(remembered.get("detect.model", ""))
    if model.endswith(".py") and not config.detect.model and Path(model).is_file():
        # a store may come from anybody, and a LazyConfig is run
        raise ConfigError(
            f"store {store.name} was made with {model}, a config that is Python and is run: "
            f"if you trust it, add --set detect.model={model}"
        )
    return remembered
