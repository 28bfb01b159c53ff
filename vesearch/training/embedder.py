"""Train an embedder on a collection's own crops, without labels, as SimCLR does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

import vesearch
from vesearch.config import Config, TrainSettings
from vesearch.embedders.trainable import TrainableEmbedder
from vesearch.errors import ConfigError, ModelError
from vesearch.evaluation import metrics, retrieval
from vesearch.evaluation.labels import read_labels
from vesearch.job import Job
from vesearch.networks import devices
from vesearch.records import Float32, Int64, UInt8
from vesearch.system.files import atomic
from vesearch.system.progress import bar
from vesearch.training import contrastive, curve, schedule
from vesearch.training.contrastive import Learnt
from vesearch.training.crops import Crops, read_crops
from vesearch.training.views import Views, follow_parent, stacked

WEIGHTS = "embedder.safetensors"
_STATE, _LOG, _CURVE = "state.pt", "log.csv", "curve.png"
_LOGGED = 10  # steps per entry of the log; the last entry may have fewer
_SAVED_S = 60.0  # seconds of work that an interruption costs at most
_WARM_UP = 0.1  # of the steps
_HEAD_RATE = 10  # times the network's learning rate, of the head: it starts from nothing
_WEIGHT_DECAY = 1e-4
_LONGEST_GRADIENT = 1.0

_Chunk = tuple[UInt8, Float32]


@dataclass(frozen=True, slots=True)
class Gain:
    """What training did to retrieval on labelled photos.

    before, after: mean average precision; low, high: 95 % interval of the paired difference.
    """

    queries: int
    before: float
    after: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run has made. first, last: of the batches at its begin and end; gain: if measured."""

    weights: Path
    curve: Path
    embedder: str
    steps: int
    crops: int
    photos: int
    first: Learnt
    last: Learnt
    gain: Gain | None
    seconds: float


def train(config: Config, out: Path, *, labels: Path | None = None) -> Trained:
    """Train the configured embedder on the crops of the configured store; continue a run in out.

    out: a folder, new or a run's: state.pt to go on from, log.csv, curve.png and, in the end,
        embedder.safetensors, which embed.weights takes. The store stays as it is.
    labels: a CSV file, as `vesearch evaluate retrieval` takes, on which before and after are
        compared.
    Raises VesearchError: for an embedder that cannot be trained, settings other than the run's, a
    folder of something else, fewer than two photos.
    """
    curve.check_installed()  # now, not after hours
    if labels is not None:
        read_labels(labels)
    began = time.perf_counter()
    run = Run(config, out)
    run.train()
    gain = None if labels is None else measure(config, out / WEIGHTS, labels)
    first, last = run.ends()
    return Trained(
        weights=out / WEIGHTS,
        curve=out / _CURVE,
        embedder=config.embed.embedder,
        steps=config.train.steps,
        crops=len(run.crops.crops),
        photos=run.crops.photo_count,
        first=first,
        last=last,
        gain=gain,
        seconds=time.perf_counter() - began,
    )


def measure(config: Config, weights: Path, labels: Path) -> Gain:
    """Ask for every labelled entity with the embedder as it was, and with trained weights."""
    trained = replace(config, embed=replace(config.embed, weights=str(weights)))
    before, after = (retrieval.evaluate(one, labels) for one in (config, trained))
    gains = np.array(after.figures.ap, np.float32) - np.array(before.figures.ap, np.float32)
    low, high = metrics.interval(gains, [query.label.label for query in after.queries])
    means = before.figures.mean_ap, after.figures.mean_ap
    return Gain(len(gains), *means, low, high)


class Run:
    """A training run in a folder; its state is replaced atomically, once a minute."""

    def __init__(self, config: Config, out: Path) -> None:
        self._config, self._out = config, out
        self._job = Job(config)
        self._embedder = self._trainable()
        self._began_with = {
            **{f"train.{name}": value for name, value in asdict(config.train).items()},
            "embed.embedder": config.embed.embedder,
            "embed.mask_weight": config.embed.mask_weight,
            "weights": self._embedder.weights_digest,
        }
        saved = self._saved()
        settings = config.train
        self.crops: Crops = read_crops(self._job, settings.sample, seed=settings.seed)
        self._prepare(saved)

    def train(self) -> None:
        """Train, or go on where the run was interrupted; write the weights and the curve."""
        settings = self._config.train
        left = settings.steps - self._step
        recent: list[Learnt] = []
        logged = saved = time.monotonic()
        with bar("train", total=left, unit="step", waits_for="making views") as progress:
            for chunks, rows in self._batches():
                recent.append(self._learn(chunks, rows))
                progress.update()
                now, ended = time.monotonic(), self._step == settings.steps
                if len(recent) == _LOGGED or ended:
                    self._log(recent, (now - logged) / len(recent))
                    recent, logged = [], now
                # the log has what the state has seen
                if (now - saved > _SAVED_S and not recent) or ended:
                    self._save()
                    saved = time.monotonic()
        about = {
            "made_by": f"vesearch {vesearch.__version__}, vesearch train",
            "settings": json.dumps(self._began_with, sort_keys=True),
            "crops": str(len(self.crops.crops)),
        }
        self._embedder.save(self._out / WEIGHTS, about)
        curve.draw(self._out)

    def ends(self) -> tuple[Learnt, Learnt]:
        """Return the first and the last entry of the log."""
        columns = curve.columns_of(self._out / _LOG)
        pairs = list(zip(columns["loss_contrastive"], columns["accuracy"], strict=True))
        return Learnt(*pairs[0]), Learnt(*pairs[-1])

    def _trainable(self) -> TrainableEmbedder:
        embedder = self._job.embedder
        if not isinstance(embedder, TrainableEmbedder):
            raise ConfigError(
                f"embedder {self._config.embed.embedder!r} cannot be trained: builtin, lite2 and "
                "simclr can"
            )
        return embedder

    def _saved(self) -> dict[str, Any] | None:
        """Return the state of the run to go on with; None for a new one."""
        if not self._out.exists() or (self._out.is_dir() and not any(self._out.iterdir())):
            return None
        path = self._out / _STATE
        if not path.is_file():
            raise ConfigError(f"{self._out}: is there, and no training run: name a new folder")
        try:
            saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            began_with = dict(saved["began_with"])
        except Exception as err:  # whatever a damaged file makes torch raise
            raise self._damaged(err) from err
        for name, value in self._began_with.items():
            if began_with.get(name) != value:
                raise ConfigError(
                    f"{self._out}: the run there began with {name} {began_with.get(name)}, not "
                    f"{value}: use that, or name a new folder"
                )
        return saved

    def _prepare(self, saved: dict[str, Any] | None) -> None:
        settings, device = self._config.train, devices.resolve(self._config.run.device)
        torch.manual_seed(settings.seed)
        self._head = contrastive.head_for(self._embedder.dim).to(device)
        own = self._embedder.learn("all" if settings.layers == "all" else "last")
        self._learning = torch.nn.ParameterList(own)
        groups = [
            {"params": list(self._learning), "share": 1.0},
            {"params": list(self._head.parameters()), "share": float(_HEAD_RATE)},
        ]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
        self._step = 0
        self._out.mkdir(parents=True, exist_ok=True)
        if saved is None:
            self._save()  # the folder is a run's from now on
            return
        try:
            self._learning.load_state_dict(saved["learning"])
            self._head.load_state_dict(saved["head"])
            self._optimizer.load_state_dict(saved["optimizer"])
            self._step = int(saved["step"])
        except Exception as err:  # likewise
            raise self._damaged(err) from err
        curve.cut(self._out / _LOG, self._step)

    def _damaged(self, err: Exception) -> ModelError:
        why = f"damaged, or of something else ({type(err).__name__})"
        return ModelError(f"{self._out / _STATE}: {why}: name a new folder")

    def _save(self) -> None:
        content = {
            "began_with": self._began_with,
            "learning": self._learning.state_dict(),
            "head": self._head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self._step,
        }
        with atomic(self._out / _STATE) as temp:
            torch.save(content, temp)

    def _batches(self) -> Iterator[tuple[list[_Chunk], Int64]]:
        """Yield for each step that is left the views of a batch in chunks, and the crops' rows."""
        settings, size = self._config.train, self._job.batch_size("embed")
        plan = _Plan(self.crops, range(self._step, settings.steps), settings, size)
        loader: DataLoader[Any] = DataLoader(
            Views(self.crops.crops, self.crops.size),
            batch_sampler=plan,
            num_workers=self._config.run.workers,
            collate_fn=stacked,
            worker_init_fn=follow_parent,
        )
        views = iter(loader)
        for step in plan.steps:
            rows = plan.rows(step)
            yield [next(views) for _ in plan.chunks(rows)], rows

    def _learn(self, chunks: list[_Chunk], rows: Int64) -> Learnt:
        settings = self._config.train
        share = schedule.rate(
            self._step, steps=settings.steps, warm_up=max(1, int(_WARM_UP * settings.steps))
        )
        for group in self._optimizer.param_groups:
            group["lr"] = group["share"] * settings.learning_rate * share
        self._optimizer.zero_grad(set_to_none=True)
        learnt = contrastive.learn(
            self._embedder,
            self._head,
            chunks,
            self.crops.near_copies(rows),
            temperature=settings.temperature,
        )
        parameters = [*self._learning, *self._head.parameters()]
        if torch.isfinite(torch.nn.utils.clip_grad_norm_(parameters, _LONGEST_GRADIENT)):
            self._optimizer.step()
        self._step += 1
        return learnt

    def _log(self, recent: list[Learnt], seconds: float) -> None:
        figures = {
            "loss_contrastive": np.mean([one.loss for one in recent]),
            "accuracy": np.mean([one.accuracy for one in recent]),
            "seconds": seconds,
        }
        curve.append(self._out / _LOG, self._step, {n: f"{v:.4f}" for n, v in figures.items()})


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Which crops are seen in which step, and the seeds of their views.

    It follows from the settings alone, however often a run is interrupted. size: of a chunk.
    """

    crops: Crops
    steps: range
    settings: TrainSettings
    size: int

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the keys of chunk after chunk, as Views takes them."""
        for step in self.steps:
            for chunk in self.chunks(self.rows(step)):
                yield [(row, self._seed(step, row)) for row in chunk.tolist()]

    def rows(self, step: int) -> Int64:
        rng = np.random.default_rng([self.settings.seed, step])
        return self.crops.draw(self.settings.batch_size, rng)

    def chunks(self, rows: Int64) -> list[Int64]:
        return [rows[start : start + self.size] for start in range(0, len(rows), self.size)]

    def _seed(self, step: int, row: int) -> int:
        return int(np.random.SeedSequence([self.settings.seed, step, row]).generate_state(1)[0])
