"""Detection models with weights of our own making: random, fixed seed, sure of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.photos import photo
from vesearch.checkpoints import converted
from vesearch.detectors.torchvision_looking import Limits
from vesearch.networks.architecture import Architecture

_SECOND = 15  # COCO's cat
SIZE = 160  # px: the shortest side that the small configs ask for


def confident(network: torch.nn.Module) -> torch.nn.Module:
    """Let a freshly made detectron2 network find things: two classes get high scores."""
    with torch.no_grad():
        # untrained, the features are a thousand times larger than the heads are made for
        network.proposal_generator.rpn_head.anchor_deltas.weight *= 1e-3
        for module in network.modules():
            if type(module).__name__ == "FastRCNNOutputLayers":
                module.bbox_pred.weight *= 1e-4
                module.cls_score.weight *= 1e-3
                module.cls_score.bias[0] += 6
                if len(module.cls_score.bias) > _SECOND:
                    module.cls_score.bias[_SECOND] += 5
    return network


def small_config(folder: Path, base: str, more: str = "") -> Path:
    """Write a config like a model's of the zoo, for small images and few instances."""
    from detectron2 import model_zoo

    path = folder / f"{Path(base).stem}_small.yaml"
    path.write_text(
        f"_BASE_: {model_zoo.get_config_file(base)}\n"
        f"INPUT: {{MIN_SIZE_TEST: {SIZE}}}\nTEST: {{DETECTIONS_PER_IMAGE: 12}}\n{more}"
    )
    return path


def detectron2_weights(config: str, out: Path) -> Path:
    """Make weights for a detectron2 config (a file or a zoo name) and save them as it does."""
    from vesearch.detectors import detectron2_model

    torch.manual_seed(0)
    with detectron2_model.quiet():
        network = detectron2_model._network(detectron2_model.read_config(config), "cpu", 0.0)
    torch.save({"model": confident(network).state_dict()}, out)
    return out


# small images and few instances: a tenth of the time
LIMITS = Limits(shortest=SIZE, proposals=100, most=12)


def shrink(network: Any) -> None:
    """Let torchvision's own Mask R-CNN keep to LIMITS."""
    network.transform.min_size = (LIMITS.shortest,)
    network.rpn._post_nms_top_n = dict.fromkeys(network.rpn._post_nms_top_n, LIMITS.proposals)
    network.roi_heads.detections_per_img = LIMITS.most


def torchvision_weights(out: Path, *, classes: int = 91) -> Path:
    """Make weights for maskrcnn_resnet50_fpn_v2 and save them as its publisher does."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    torch.manual_seed(0)
    network = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=classes)
    with torch.no_grad():
        network.rpn.head.bbox_pred.weight *= 1e-3
        network.roi_heads.box_predictor.bbox_pred.weight *= 1e-4
        network.roi_heads.box_predictor.cls_score.weight *= 1e-3
        network.roi_heads.box_predictor.cls_score.bias[1] += 6
    torch.save(network.state_dict(), out)
    return out


def torchvision_varied(out: Path) -> Path:
    """Make weights for the same that find things of many kinds and places: norms fit a picture."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

    torch.manual_seed(0)
    network = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None).eval()
    network.transform.min_size = (224,)
    with Image.open(photo("coffee.png")) as image:
        pixels = np.asarray(image.convert("RGB").resize((336, 224)), np.float32) / 255
    picture = torch.from_numpy(pixels).permute(2, 0, 1)
    norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    heads = network.roi_heads
    with torch.no_grad():
        network.backbone(network.transform([picture])[0].tensors)
        heads.box_head(torch.randn(16, 256, 7, 7))
        heads.mask_head(torch.randn(16, 256, 14, 14))
        network.rpn.head.cls_logits.weight *= 100
        network.rpn.head.bbox_pred.weight *= 10
        heads.box_predictor.cls_score.weight *= 12
        heads.box_predictor.bbox_pred.weight *= 2
    torch.save(network.state_dict(), out)
    return out


def simclr_weights(out: Path, architecture: Architecture) -> Path:
    """Make untrained weights for the simclr embedder."""
    from vesearch.networks import resnet

    torch.manual_seed(0)
    state = resnet.ResNet(architecture).state_dict()
    converted.write(
        out,
        lambda digest: converted.Header(architecture, digest, "untrained", "pytorch"),
        resnet.tensor_shapes(architecture),
        lambda name: state[name].numpy(),
    )
    return out


def timm_weights(out: Path, model: str) -> Path:
    """Make untrained weights for a model of timm."""
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model(model).state_dict(), out)
    return out
