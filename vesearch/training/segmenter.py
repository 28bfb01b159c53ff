"""Train the built-in segmenter on annotated photos."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import vesearch
from vesearch.checkpoints import tensorfile
from vesearch.config import load_config
from vesearch.detectors.segmenter_network import SegmenterNetwork, load_tensors, trained_tensors
from vesearch.evaluation import segmentation
from vesearch.networks import devices
from vesearch.system.files import atomic, write_text
from vesearch.training import curve, photos, scenes, schedule
from vesearch.training.losses import losses, trainable_network
from vesearch.training.recipe import Recipe

_AHEAD = 2  # batches of scenes that are made ahead
_LOGGED = 20  # steps per entry of the log; the last entry may have fewer
_LONGEST_GRADIENT = 5.0


class _Scenes(Dataset[Any]):
    """The scenes of a run, each made from the seed and its number alone."""

    def __init__(self, recipe: Recipe, data: Path, start: int) -> None:
        self.recipe, self.start = recipe, start * recipe.batch_size
        self.photos: list[photos.Photo] = []
        weights: list[float] = []
        for source in recipe.sources:
            folder = data / source.folder
            read = list(
                photos.read_photos(folder, complete=source.complete, held_out=source.held_out)
            )
            self.photos += read
            weights += [source.share / len(read)] * len(read)
        self.weights = (np.array(weights) / sum(weights)).astype(np.float64)

    def __len__(self) -> int:
        return self.recipe.steps * self.recipe.batch_size - self.start

    def __getitem__(self, number: int) -> scenes.Scene:
        rng = np.random.default_rng([self.recipe.seed, self.start + number])
        zoom = self.recipe.least_zoom, self.recipe.most_zoom
        recipe = self.recipe
        return scenes.make(
            self.photos, self.weights, recipe.side, zoom, rng, mosaics=recipe.mosaics
        )


class Run:
    """A training run in a folder: state.pt to go on from, log.csv, segmenter.safetensors.

    The state is replaced atomically; an interruption costs at most recipe.save_every steps.
    measured.csv says what the weights reach on the photos of the first source that are held out;
    held_out.json, for `vesearch evaluate masks`, which these are. start: the weights that an
    earlier run has exported, to go on with what it has learnt.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        out: Path,
        *,
        start: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self.recipe, self.data, self.out, self.start = recipe, data, out, start
        self.device = devices.resolve(device)

    def train(self) -> None:
        """Train, or go on where the run was interrupted."""
        self._prepare()
        loader = DataLoader(
            _Scenes(self.recipe, self.data, self._step),
            batch_size=self.recipe.batch_size,
            num_workers=1,  # it makes scenes faster than a CPU, and as fast as a GPU, learns them
            prefetch_factor=_AHEAD,
            collate_fn=list,
        )
        recent: list[dict[str, float]] = []
        began = time.monotonic()
        for batch in loader:
            recent.append(self._learn(batch))
            if len(recent) == _LOGGED or self._step == self.recipe.steps:
                self._log(recent, (time.monotonic() - began) / len(recent))
                recent, began = [], time.monotonic()
            if self._step % self.recipe.save_every == 0 or self._step == self.recipe.steps:
                self._save()
            if self._step % self.recipe.measure_every == 0 or self._step == self.recipe.steps:
                self._measure()

    def export(self) -> Path:
        """Write the moving average as float16 weights; their metadata say how they were made."""
        average = {n: t.cpu() for n, t in self._average.items() if t.is_floating_point()}
        if self.start:
            for name, before in tensorfile.read_tensors(self.start).items():
                average[name] = average[name].lerp(before.float(), self.recipe.start_share)
        tensors = {name: tensor.numpy() for name, tensor in average.items()}
        about = {
            "made_by": f"vesearch {vesearch.__version__}, python -m vesearch.training",
            "recipe": json.dumps(asdict(self.recipe)),
            "steps": str(self._step),
        }
        if self.start:
            about["started_from"] = json.dumps(tensorfile.read_metadata(self.start))
        path = self.out / "segmenter.safetensors"
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        tensorfile.write(path, shapes, tensors.__getitem__, lambda _: about, half=True)
        return path

    def _prepare(self) -> None:
        self._step = 0
        torch.manual_seed(self.recipe.seed)
        network = trainable_network()
        if self.start:
            load_tensors(network, self.start)
        self._network = network.to(self.device).train()
        if not self.recipe.backbone_rate:
            network.backbone.body.requires_grad_(False)
        self._parameters = [p for p in self._network.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(_groups(self._network, self.recipe))
        self._average = copy.deepcopy(trained_tensors(self._network))
        self.out.mkdir(parents=True, exist_ok=True)
        if not self._state.exists():
            return
        saved = torch.load(self._state, map_location=self.device, weights_only=True)
        self._network.load_state_dict(saved["network"], strict=False)
        self._optimizer.load_state_dict(saved["optimizer"])
        self._average, self._step = saved["average"], saved["step"]
        for table in ("log.csv", "measured.csv"):
            curve.cut(self.out / table, self._step)

    @property
    def _state(self) -> Path:
        return self.out / "state.pt"

    def _save(self) -> None:
        content = {
            "network": trained_tensors(self._network),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average,
            "step": self._step,
        }
        with atomic(self._state) as temp:
            torch.save(content, temp)

    def _learn(self, batch: Sequence[scenes.Scene]) -> dict[str, float]:
        """Take one step; return the losses."""
        torch.manual_seed(self.recipe.seed + self._step)  # for a run that goes on, too
        for group in self._optimizer.param_groups:
            rate = schedule.rate(self._step, steps=self.recipe.steps, warm_up=self.recipe.warm_up)
            group["lr"] = group["share"] * self.recipe.learning_rate * rate
        found = losses(self._network, batch, self.device)
        self._optimizer.zero_grad(set_to_none=True)
        torch.stack(list(found.values())).sum().backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, _LONGEST_GRADIENT)
        if torch.isfinite(norm):  # one bad scene must not spoil the run
            self._optimizer.step()
        self._step += 1
        # early on a shorter memory: the first weights are random
        keep = min(self.recipe.averaging, (1 + self._step) / (10 + self._step))
        for name, tensor in trained_tensors(self._network).items():
            if tensor.is_floating_point():
                self._average[name].lerp_(tensor.detach(), 1 - keep)
        return {name: float(value.detach()) for name, value in found.items()}

    def _measure(self) -> None:
        """Export the weights and write what they reach on the photos that are held out."""
        weights, held_out = self.export(), self.out / "held_out.json"
        folder = self.data / self.recipe.sources[0].folder
        if not self.recipe.sources[0].held_out:
            return
        write_text(held_out, json.dumps(photos.held_out(folder)))
        settings = [f"detect.weights={weights}", f"run.device={self.device}"]
        found = segmentation.evaluate(load_config(overrides=settings), held_out, folder / "images")
        figures = {"AP50": found.ap50, "AP": found.ap, "AR@10": found.ar10, "AR@20": found.ar20}
        figures["AR@20 small"] = found.ar20_small
        measured = {n: f"{value:.4f}" for n, value in figures.items()}
        curve.append(self.out / "measured.csv", self._step, measured)

    def _log(self, recent: Sequence[dict[str, float]], seconds: float) -> None:
        means = {name: sum(r[name] for r in recent) / len(recent) for name in recent[0]}
        losses = {name: f"{value:.4f}" for name, value in means.items()}
        logged = {**losses, "seconds": f"{seconds:.3f}"}
        curve.append(self.out / "log.csv", self._step, logged)


def _groups(network: SegmenterNetwork, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the parameters as the optimizer takes them; biases and norms do not decay."""
    backbone = {id(p) for p in network.backbone.body.parameters()}
    groups: list[dict[str, Any]] = []
    for inside, share in ((False, 1.0), (True, recipe.backbone_rate)):
        own = [p for p in network.parameters() if p.requires_grad and (id(p) in backbone) == inside]
        for decay, params in (
            (recipe.weight_decay, [p for p in own if p.ndim > 1]),
            (0.0, [p for p in own if p.ndim <= 1]),
        ):
            if params:
                groups.append({"params": params, "weight_decay": decay, "share": share})
    return groups
