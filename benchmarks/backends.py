"""Measure every detector and embedder: images/s at the best batch size, side by side.

Weights of the large models are made on the spot, from a fixed seed: speed does not depend on what
they learned. What does is how many instances there are; the detectors are held at INSTANCES.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import cosines, seconds
from tests import models
from vesearch.detectors import DETECTORS
from vesearch.detectors.selection import Selection
from vesearch.embedders import EMBEDDERS
from vesearch.networks import devices
from vesearch.networks.architecture import Architecture

INSTANCES = 10  # per photo, about as many as COCO's have
PUBLISHED_S = 0.053  # per image: detectron2's R50-FPN on one V100, MODEL_ZOO.md
DETECTRON2 = {
    "detectron2, panoptic FPN R50": "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml",
    "detectron2, Mask R-CNN R50": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
}
TIMM = ("resnet50.a1_in1k", "vit_small_patch14_dinov2.lvd142m")


@dataclass(frozen=True)
class Row:
    """A backend's speed, and beside it what it is compared with."""

    name: str
    per_s: float
    batch: int
    beside: str = ""
    ratio: float | None = None
    cosine: float | None = None

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        cosine = "" if self.cosine is None else f"{self.cosine:.5f}"
        cells = (self.name, f"{self.per_s:.3g}", str(self.batch), self.beside, ratio, cosine)
        return f"| {' | '.join(cells)} |"


HEADER = (
    "| backend | images/s | batch | beside | ratio | least cosine |\n|---|---:|---:|---|---:|---:|"
)


def detectors(images: list[Any], scratch: Path, device: str) -> Iterator[Row]:
    """Time each detector over some photos."""
    selection = Selection(max_entities=INSTANCES)
    make: dict[str, Callable[[], Any]] = {
        name: partial(DETECTORS.create, name, selection=selection, device=device)
        for name in ("builtin", "cuts")
    }
    weights = models.torchvision_weights(scratch / "torchvision.pth")

    def torchvision() -> Any:
        made = DETECTORS.create("torchvision", weights=str(weights), device=device)
        made.limits = replace(made.limits, most=INSTANCES)
        return made

    make["torchvision, Mask R-CNN v2 R50"] = torchvision
    if find_spec("detectron2"):
        for name, base in DETECTRON2.items():
            make[name] = partial(_detectron2, base, scratch, device)
    sizes = (1, 4, 16) if device.startswith("cuda") else (1,)  # a CPU gets them one by one
    for name, made in make.items():
        detector = made()
        detector.detect(images[:2])  # loads the weights
        took = {}
        for size in sizes:
            batches = [images[i : i + size] for i in range(0, len(images), size)]
            took[size] = seconds(partial(_all_of, detector.detect, batches))
        best = min(took, key=lambda size: took[size])
        each_s = took[best] / len(images)
        published = name.startswith("detectron2") and device.startswith("cuda")
        beside = f"published {1 / PUBLISHED_S:.1f}/s" if published else ""
        yield Row(name, 1 / each_s, best, beside, PUBLISHED_S / each_s if published else None)


def _all_of(work: Callable[[Any], object], batches: list[Any]) -> None:
    """Do the work for each batch."""
    for batch in batches:
        work(batch)


def _detectron2(base: str, scratch: Path, device: str) -> Any:
    from detectron2 import model_zoo

    config = scratch / Path(base).name
    config.write_text(
        f"_BASE_: {model_zoo.get_config_file(base)}\nTEST: {{DETECTIONS_PER_IMAGE: {INSTANCES}}}\n"
    )
    weights = models.detectron2_weights(base, config.with_suffix(".pth"))
    return DETECTORS.create("detectron2", model=str(config), weights=str(weights), device=device)


def embedders(crops: Any, scratch: Path, device: str) -> Iterator[Row]:
    """Time each embedder in float32 and bfloat16 against its network in a plain float32 loop."""
    some: dict[str, dict[str, Any]] = {"builtin": {}}
    for kernels in (False, True):
        name = f"simclr, R50 1x sk{int(kernels)}"
        architecture = Architecture(depth=50, width=1, selective_kernels=kernels)
        path = models.simclr_weights(scratch / f"sk{int(kernels)}.safetensors", architecture)
        some[name] = {"weights": str(path)}
    for model in TIMM:
        path = models.timm_weights(scratch / f"{model}.pth", model)
        some[f"timm:{model}"] = {"weights": str(path)}
    for name, options in some.items():
        yield from _embedder(name, options, crops, device)


def _embedder(name: str, options: dict[str, Any], crops: Any, device: str) -> Iterator[Row]:
    import torch

    registered = name.partition(",")[0]
    sizes = (64, 256) if device.startswith("cuda") else (1, 8, 32)
    if "vit" in name and device == "cpu":  # 518 px: seconds for each crop
        crops, sizes = crops[:8], (1, 4)
    plain = EMBEDDERS.create(registered, device=device, precision="float32", **options)
    loop = plain_loop(plain, device)
    expected = loop(crops, sizes[-1])
    computes = torch.cpu._is_avx512_bf16_supported() or devices.use_bfloat16("auto", device)
    ways = ["float32", "bfloat16"] if computes else ["float32"]
    took: dict[tuple[str, int], float] = {}
    made = {
        (way, size): EMBEDDERS.create(
            registered, device=device, precision=way, batch_size=size, **options
        )
        for way, size in itertools.product(ways, sizes)
    }
    found = {key: embedder.embed(crops) for key, embedder in made.items()}  # loads the weights
    for _ in range(2):  # in turn: the machine's speed drifts
        for size in sizes:
            took["plain", size] = min(
                took.get(("plain", size), np.inf), seconds(partial(loop, crops, size))
            )
        for key, embedder in made.items():
            took[key] = min(took.get(key, np.inf), seconds(partial(embedder.embed, crops)))
    best_plain = min(sizes, key=lambda size: took["plain", size])
    plain_s = took["plain", best_plain]
    if device.startswith("cuda") and registered == "simclr":
        ways.append("compiled bfloat16")
        embedder = EMBEDDERS.create(
            registered, device=device, precision="bfloat16", batch_size=sizes[-1], **options
        )
        compile_stages(embedder)
        found[ways[-1], sizes[-1]] = embedder.embed(crops)
        took[ways[-1], sizes[-1]] = seconds(lambda: embedder.embed(crops), runs=2)
    for way in ways:
        best = min(sizes, key=lambda size: took.get((way, size), np.inf))
        taken = took[way, best]
        beside = f"plain float32, batch {best_plain}: {len(crops) / plain_s:.3g}/s"
        cosine = float(cosines(found[way, best], expected).min())
        yield Row(f"{name}, {way}", len(crops) / taken, best, beside, plain_s / taken, cosine)


def compile_stages(embedder: Any) -> None:
    """Let torch compile the parts of an embedder's network."""
    import torch

    compiled = [torch.compile(part) for part in embedder._parts()]
    embedder._parts = lambda: compiled


def plain_loop(embedder: Any, device: str) -> Callable[[Any, int], Any]:
    """Return what one would write first: the network as it was made, float32, batch after batch."""
    import torch

    kind = type(embedder).__name__
    if kind == "Lite0":
        import timm

        from vesearch.networks import lite0

        net: Any = timm.create_model("tf_efficientnet_lite0", num_classes=1000)
        weights = torch.load(lite0.weights_path(), map_location="cpu", weights_only=True)
        net.load_state_dict(dict(zip(net.state_dict(), weights.values(), strict=True)))
        net.reset_classifier(0)
        to_input: Any = partial(lite0.to_input, device=device)
    elif kind == "SimCLR":
        from vesearch.checkpoints import converted
        from vesearch.networks import resnet

        header = converted.read_header(embedder._path)
        net = resnet.build(header.architecture, converted.load(embedder._path, header))
        to_input = embedder._to_input
    else:
        net, to_input = embedder._network, partial(_stemmed, embedder, embedder._stem(), device)
    net = net.to(device, memory_format=torch.contiguous_format).eval()

    def loop(crops: Any, size: int) -> Any:
        with torch.inference_mode():
            parts = [
                net(to_input(crops[i : i + size]).contiguous()).cpu()
                for i in range(0, len(crops), size)
            ]
        return torch.cat(parts).numpy()

    return loop


def _stemmed(embedder: Any, stem: Any, device: str, crops: Any) -> Any:
    """Return what a network of timm's takes of (n, s, s, 3) uint8 crops."""
    import torch

    return stem(torch.from_numpy(embedder._prepared(crops)).to(device))[0]


def run(images: list[Any], device: str) -> Iterator[Row]:
    """Measure everything on some photos, (h, w, 3) uint8 each."""
    from PIL import Image

    crops = np.stack([np.asarray(Image.fromarray(image).resize((224, 224))) for image in images])
    with tempfile.TemporaryDirectory() as folder:
        yield from embedders(crops, Path(folder), device)
        yield from detectors(images[:8], Path(folder), device)
