"""Sparse variational dropout, BC-GNJ and BC-GHS as their authors train them.

Pre-activations are drawn in the place of weights (local reparametrisation), and KL terms have the
authors' closed forms (see `posteriors`): less noise than stock SVI, which draws both, at a fraction
of its time.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.frontier_cases.posteriors import SparsePrior, make_weight
from benchmarks.frontier_cases.training import Task, Trained, optimise, replace_layers
from pyro_turbovbi.priors import LogUniform


class Noisy(nn.Module):
    """A linear or convolution layer whose pre-activations are drawn from their posterior.

    Args:
        layer: The layer to start from.
        prior: Prior of its weight; the bias is a point.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, prior: SparsePrior) -> None:
        super().__init__()
        self.layer = layer
        self.weight = make_weight(prior, layer.weight)
        layer.weight.requires_grad_(False)
        self.by_output = getattr(prior, "dim", None) == 0

    def forward(self, x: Tensor) -> Tensor:
        """Pre-activations, one draw a data point."""
        scale = self.weight.scale()
        factor = None if scale is None else _spread(scale.draw(len(x)), x.dim())
        if factor is not None and not self.by_output:
            x = x * factor
        mean = self._apply_weight(x, self.weight.raw.loc)
        variance = self._apply_weight(x.square(), self.weight.raw.variance)
        drawn = mean + (variance + 1e-8).sqrt() * torch.randn_like(mean)
        if factor is not None and self.by_output:
            drawn = drawn * factor
        bias = self.layer.bias
        return drawn if bias is None else drawn + _spread(bias[None], drawn.dim())

    def _apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight)
        return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def _spread(values: Tensor, rank: int) -> Tensor:
    """`[points, channels]` with a dimension of one for every position."""
    return values.reshape(*values.shape, *[1] * (rank - 2))


@dataclass(frozen=True)
class Variational:
    """Closed-form variational training under one of the three priors.

    Attributes:
        prior: The prior of all weights; its threshold prunes.
        lr: First learning rate; it falls linearly to zero.
        scale_lr: That of logarithms of scales, in units of `lr`.
        kl_weight: Weight of the KL term; 1 is the authors' bound.
        warmup: Fraction of the training over which it rises from 0.
    """

    prior: SparsePrior
    lr: float = 1e-3
    scale_lr: float = 5.0
    kl_weight: float = 1.0
    warmup: float = 0.25

    def train(self, task: Task) -> Trained:
        """See `Method.train`."""
        drawn = copy.deepcopy(task.net).train()
        layers = replace_layers(drawn, self._noisy)

        def objective(x: Tensor, y: Tensor, progress: float) -> Tensor:
            weight = self.kl_weight * min(1.0, progress / self.warmup)
            kl = torch.stack([layer.weight.kl() for layer in layers.values()]).sum()
            return F.cross_entropy(drawn(x), y) + weight * kl / len(task.train.x)

        optimise(task, self._parameter_groups(drawn), objective, lr=self.lr)
        posteriors = {f"{name}.weight": layer.weight for name, layer in layers.items()}
        moments = {name: weight.moments() for name, weight in posteriors.items()}
        state = {f"{name}.bias": layer.layer.bias for name, layer in layers.items()}
        state |= {name: one.mean for name, one in moments.items()}
        task.net.load_state_dict({n: t for n, t in state.items() if t is not None}, strict=False)
        masks = {name: weight.survivors() for name, weight in posteriors.items()}
        return Trained.of(task.net, masks, {name: one.scale for name, one in moments.items()})

    def described(self) -> dict[str, Any]:
        """See `Method.described`."""
        return {"method": "variational", **asdict(self), "prior": repr(self.prior)}

    def _noisy(self, layer: nn.Linear | nn.Conv2d) -> Noisy:
        return Noisy(layer, self._prior_of(layer)).to(layer.weight.device)

    def _prior_of(self, layer: nn.Module) -> SparsePrior:
        """Groups are filters of convolutions and inputs of linear layers, as the authors' are."""
        if isinstance(self.prior, LogUniform) or not isinstance(layer, nn.Conv2d):
            return self.prior
        return replace(self.prior, dim=0)

    def _parameter_groups(self, net: nn.Module) -> list[dict[str, Any]]:
        trained = {n: p for n, p in net.named_parameters() if p.requires_grad}
        scales = [p for n, p in trained.items() if n.endswith("log_scale")]
        rest = [p for n, p in trained.items() if not n.endswith("log_scale")]
        return [{"params": rest}, {"params": scales, "lr": self.lr * self.scale_lr}]
