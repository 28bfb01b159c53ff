"""The contrastive loss, and a step on a batch of any size in the memory of a small one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from vesearch.embedders.trainable import TrainableEmbedder
from vesearch.records import Bool, Float32, UInt8

HEAD_DIM = 128


@dataclass(frozen=True, slots=True)
class Learnt:
    """A batch, before its step. accuracy: share of views that are nearest to their crop's other."""

    loss: float
    accuracy: float


def head_for(dim: int) -> torch.nn.Module:
    """Return SimCLR's projection head, without its batch norms: what it makes is thrown away."""
    return torch.nn.Sequential(
        torch.nn.Linear(dim, dim), torch.nn.ReLU(inplace=True), torch.nn.Linear(dim, HEAD_DIM)
    )


def nt_xent(
    views: torch.Tensor, near_copies: torch.Tensor, *, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of (2 n, d) unit vectors, rows i and n + i views of one crop; and accuracy.

    NT-Xent: Chen et al. (arXiv 2002.05709), equation 1. near_copies: (n, n) crops that are not told
    apart, as they may be of the same.
    """
    n = len(near_copies)
    itself = torch.eye(2 * n, dtype=torch.bool, device=views.device)
    left_out = near_copies.repeat(2, 2) | itself
    logits = (views @ views.T / temperature).masked_fill(left_out, -torch.inf)  # (2 n, 2 n)
    other = torch.arange(2 * n, device=views.device).roll(n)
    return functional.cross_entropy(logits, other), (logits.argmax(1) == other).float().mean()


def learn(
    embedder: TrainableEmbedder,
    head: torch.nn.Module,
    chunks: Sequence[tuple[UInt8, Float32]],
    near_copies: Bool,
    *,
    temperature: float,
) -> Learnt:
    """Add the gradients of a batch, whose views come in chunks as views.stacked has them.

    First all views without gradients, for the loss and its gradient by each embedding; then chunk
    after chunk again, with that. It is what one pass would give: nothing in the network looks at
    other views. Gao et al., Scaling Deep Contrastive Learning Batch Size (arXiv 2101.06983).
    """
    begun = [(embedder.begin(views), covers) for views, covers in chunks]

    def embedded(maps: torch.Tensor, covers: Float32) -> torch.Tensor:
        vectors = functional.normalize(head(embedder.finish(maps, covers)))
        return vectors.view(2, -1, vectors.shape[1])  # (2 c, d) -> (2, c, d)

    with torch.no_grad():
        vectors = torch.cat([embedded(*one) for one in begun], 1)
    vectors.requires_grad_(True)
    near = torch.from_numpy(near_copies).to(vectors.device)
    loss, accuracy = nt_xent(vectors.flatten(0, 1), near, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, vectors)
    start = 0
    for one in begun:
        own = embedded(*one)
        own.backward(gradient[:, start : start + own.shape[1]])  # type: ignore[no-untyped-call]
        start += own.shape[1]
    return Learnt(float(loss.detach()), float(accuracy))
