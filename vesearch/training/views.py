"""Make two views of a crop, as SimCLR does: cut again, mirrored, recoloured, blurred.

Chen et al., A Simple Framework for Contrastive Learning (arXiv 2002.05709), appendix A. Here a view
shows a quarter of the crop at least, where SimCLR's shows a twelfth of a photo: a crop is of one
thing already; and colours change half as much, as they tell things apart.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from vesearch.describe import read_covers, read_crops
from vesearch.records import COVER_SIDE, Crop, Float32, UInt8

_SHOWN = (0.25, 1.0)  # share of the crop's area
_COLOURS = (0.4, 0.4, 0.4, 0.1)  # largest change of brightness, contrast, saturation, hue
_RECOLOURED, _GREY, _BLURRED = 0.8, 0.2, 0.5  # of the views
_LOOKED_S = 1.0  # how often a process looks whether the one it is of is there
_SIGMA = (0.1 / 224, 2.0 / 224)  # of the blur, as a share of the side


class Views(Dataset[Any]):
    """The views of crops; a key is a crop's row and the seed that its views are made from."""

    def __init__(self, crops: Sequence[Crop], size: int) -> None:
        self._crops, self._size = crops, size
        self._change = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=_SHOWN, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(*_COLOURS)], _RECOLOURED),
                v2.RandomGrayscale(_GREY),
                # torchvision's own blur takes ten times as long as all the rest
                v2.RandomApply([v2.Lambda(_blurred, Image.Image)], _BLURRED),
            ]
        )

    def __getitem__(self, key: tuple[int, int]) -> tuple[UInt8, Float32]:
        """Return two views, (2, s, s, 3), and what of their cells lies in the mask, (2, c, c)."""
        row, seed = key
        crop = self._crops[row]
        image = Image.fromarray(read_crops([crop.jpeg], self._size)[0])
        cover = torch.from_numpy(read_covers([crop]))[None]  # (1, 1, c, c)
        mask = tv_tensors.Mask(interpolate(cover, (self._size, self._size))[0])
        torch.manual_seed(seed)  # of this process, which does nothing else
        views = [self._change(image, mask) for _ in range(2)]
        covers = adaptive_avg_pool2d(torch.stack([own for _, own in views]), COVER_SIDE)[:, 0]
        return np.stack([np.asarray(view) for view, _ in views]), np.asarray(covers)


def _blurred(image: Image.Image) -> Image.Image:
    sigma = float(torch.empty(1).uniform_(*_SIGMA)) * image.width
    return image.filter(ImageFilter.GaussianBlur(sigma))


def follow_parent(_worker: int) -> None:
    """Let a process that makes views hear no Ctrl-C and SIGTERM, and end with the one it is of.

    torch's would wait for ever, after a SIGKILL of that one, for somebody to read what they made.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOKED_S)
    os._exit(1)


def stacked(views: Sequence[tuple[UInt8, Float32]]) -> tuple[UInt8, Float32]:
    """Return n crops' views as (2 n, s, s, 3) and (2 n, c, c): first views, then second ones."""
    images, covers = (np.stack(column, 1) for column in zip(*views, strict=True))
    return images.reshape(-1, *images.shape[2:]), covers.reshape(-1, *covers.shape[2:])
