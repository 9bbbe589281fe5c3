"""Dense training, and pruning by magnitude: what needs no Bayesian package."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.frontier_cases.training import (
    Task,
    Trained,
    cross_entropy,
    mask_weights,
    optimise,
    weights_of,
)

#: Steps between two thresholds while the density falls.
EVERY = 50


@dataclass(frozen=True)
class Dense:
    """Plain Adam, all weights kept.

    Attributes:
        lr: First learning rate; it falls linearly to zero.
    """

    lr: float = 1e-3

    def train(self, task: Task) -> Trained:
        """See `Method.train`."""
        net = task.net.train()
        optimise(task, net.parameters(), cross_entropy(net), lr=self.lr)
        weights = weights_of(net)
        return Trained.of(
            net, {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
        )

    def described(self) -> dict[str, Any]:
        """See `Method.described`."""
        return {"method": "dense", **asdict(self)}


@dataclass(frozen=True)
class Magnitude:
    """Gradual pruning of the smallest weights of all layers, then fine-tuning under fixed masks.

    The training maximises the posterior density under normal weights; the density of the masks
    falls from 1 along a cubic curve (M. Zhu, S. Gupta, "To prune, or not to prune", 2017).

    Attributes:
        density: Share of weights that are kept.
        lr: First learning rate; it falls linearly to zero.
        scale: Standard deviation of the normal prior of the weights; None: no prior.
        until: Fraction of the training after which the masks are fixed.
    """

    density: float
    lr: float = 1e-3
    scale: float | None = None
    until: float = 0.6

    def train(self, task: Task) -> Trained:
        """See `Method.train`."""
        net = task.net.train()
        weights = weights_of(net)
        masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}

        def prune(step: int) -> None:
            progress = step / (self.until * task.steps)
            if (progress < 1.0 and step % EVERY == 0) or _is_last(step, self.until, task.steps):
                masks.update(largest(weights, self.density_at(progress)))
            mask_weights(weights, masks)

        # Adam's coupled penalty: the gradient of the prior's negative log-density per data point.
        decay = 0.0 if self.scale is None else 1.0 / (self.scale**2 * len(task.train.x))
        rest = [p for name, p in net.named_parameters() if name not in weights]
        groups: list[dict[str, Any]] = [
            {"params": list(weights.values()), "weight_decay": decay},
            {"params": rest},
        ]
        optimise(task, groups, cross_entropy(net), lr=self.lr, after=prune)
        return Trained.of(net, masks)

    def density_at(self, progress: float) -> float:
        """Density at a fraction of the time in which it falls."""
        left = max(0.0, 1.0 - progress) ** 3
        return self.density + (1.0 - self.density) * left

    def described(self) -> dict[str, Any]:
        """See `Method.described`."""
        return {"method": "magnitude", "every": EVERY, **asdict(self)}


def _is_last(step: int, until: float, steps: int) -> bool:
    """Whether this is the first step at which the masks have their final density."""
    return step - 1 < until * steps <= step


def largest(weights: dict[str, nn.Parameter], density: float) -> dict[str, Tensor]:
    """Masks of the largest weights of all layers together."""
    sizes = torch.cat([w.detach().abs().flatten() for w in weights.values()])
    kept = max(1, round(density * len(sizes)))
    threshold = sizes.kthvalue(len(sizes) - kept + 1).values
    return {name: w.detach().abs() >= threshold for name, w in weights.items()}
