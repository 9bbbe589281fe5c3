"""Packages of others, as they come: sparse variational dropout and structured pruning.

They are in the extra `bench-peers`, and are imported where they are used.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.frontier_cases.training import (
    Method,
    Task,
    Trained,
    cross_entropy,
    mask_weights,
    optimise,
    replace_layers,
    weights_of,
)

#: Halvings of the range in which torch-pruning's ratio is sought.
BISECTIONS = 12


@dataclass(frozen=True)
class CplxModule:
    """Sparse variational dropout with the layers of `cplxmodule`.

    Attributes:
        lr: First learning rate; it falls linearly to zero.
        scale_lr: That of logarithms of variances, in units of `lr`.
        kl_weight: Weight of the penalty; 1 is the bound.
        warmup: Fraction of the training over which it rises from 0.
        threshold: Log dropout rate from which on a weight is pruned.
    """

    package = "cplxmodule"

    lr: float = 1e-3
    scale_lr: float = 10.0
    kl_weight: float = 1.0
    warmup: float = 0.25
    threshold: float = 3.0

    def train(self, task: Task) -> Trained:
        """See `Method.train`."""
        from cplxmodule.nn.relevance import Conv2dVD, LinearVD, named_relevance, penalties

        net = copy.deepcopy(task.net).train()
        layers = replace_layers(net, lambda layer: _like(layer, LinearVD, Conv2dVD))

        def objective(x: Tensor, y: Tensor, progress: float) -> Tensor:
            weight = self.kl_weight * min(1.0, progress / self.warmup)
            penalty = torch.stack(list(penalties(net))).sum()
            return F.cross_entropy(net(x), y) + weight * penalty / len(task.train.x)

        scales = [layer.get_parameter("log_sigma2") for layer in layers.values()]
        known = set(map(id, scales))
        rest = [p for p in net.parameters() if id(p) not in known]
        groups: list[dict[str, Any]] = [{"params": rest}]
        groups.append({"params": scales, "lr": self.lr * self.scale_lr})
        optimise(task, groups, objective, lr=self.lr)
        task.net.load_state_dict(net.state_dict(), strict=False)
        kept = dict(named_relevance(net, threshold=self.threshold))
        return Trained.of(
            task.net,
            {f"{name}.weight": mask > 0 for name, mask in kept.items()},
            {f"{n}.weight": (0.5 * s).exp() for n, s in zip(layers, scales, strict=True)},
        )

    def described(self) -> dict[str, Any]:
        """See `Method.described`."""
        return {"method": self.package, **asdict(self)}


def _like(layer: nn.Linear | nn.Conv2d, linear: Any, convolution: Any) -> nn.Module:
    """A noisy layer with the weights of a plain one."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        made = linear(layer.in_features, layer.out_features, bias)
    else:
        made = convolution(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            bias,
        )
    made.load_state_dict(layer.state_dict(), strict=False)
    noisy: nn.Module = made.to(layer.weight.device)
    return noisy


@dataclass(frozen=True)
class TorchPruning:
    """Whole units pruned by `torch-pruning`, once, between training and fine-tuning.

    One half of the epochs is plain training, the other half fine-tuning of what is left. Units are
    ranked over all layers by the norm of their weights.

    Attributes:
        share: Share of the parameters that is left, at most.
        lr: First learning rate of both halves; it falls linearly to zero in each.
        norm: Which norm.
    """

    package = "torch_pruning"

    share: float
    lr: float = 1e-3
    norm: int = 2

    def train(self, task: Task) -> Trained:
        """See `Method.train`."""
        net, first = task.net.train(), task.epochs // 2
        if first:
            phase = replace(task, epochs=first)
            optimise(phase, net.parameters(), cross_entropy(net), lr=self.lr)
        masks = self.masks(net, task.train.x[:2])
        weights = weights_of(net)
        mask_weights(weights, masks)
        optimise(
            replace(task, epochs=task.epochs - first),
            net.parameters(),
            cross_entropy(net),
            lr=self.lr,
            after=lambda _step: mask_weights(weights, masks),
        )
        return Trained.of(net, masks)

    def masks(self, net: nn.Module, example: Tensor) -> dict[str, Tensor]:
        """Masks of the units that stay."""
        budget = self.share * sum(p.numel() for p in net.parameters())
        return masks_within(budget, net, example, self.norm)

    def described(self) -> dict[str, Any]:
        """See `Method.described`."""
        return {"method": self.package, **asdict(self)}


def masks_within(
    budget: float, net: nn.Module, example: Tensor, norm: int, *, together: bool = True
) -> dict[str, Tensor]:
    """Masks of the units that stay, by bisection of the package's ratio.

    Args:
        budget: How many parameters may be left.
        net: The network; it is not touched.
        example: A batch of inputs.
        norm: See `structured_masks`.
        together: See `structured_masks`.
    """

    def masks_at(ratio: float) -> dict[str, Tensor]:
        return structured_masks(net, example, ratio, norm, together=together)

    low, high = 0.0, 1.0
    best = masks_at(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        masks = masks_at(middle)
        if parameters_left(net, masks) <= budget:
            best, high = masks, middle
        else:
            low = middle
    return best


def structured_masks(
    net: nn.Module, example: Tensor, ratio: float, norm: int, *, together: bool = True
) -> dict[str, Tensor]:
    """Masks of what `torch-pruning` would leave of the weights; the network is not touched.

    Args:
        net: The network.
        example: A batch of inputs.
        ratio: Share of the units that go, over all layers but the last.
        norm: Norm that ranks them.
        together: Whether they are ranked over all layers, or go in equal shares from each.
    """
    import torch_pruning

    pruner = torch_pruning.pruner.BasePruner(
        net,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=norm),
        pruning_ratio=ratio,
        global_pruning=together,
        ignored_layers=list(net.children())[-1:],
    )
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights_of(net).items()}
    names = {module: f"{name}.weight" for name, module in net.named_modules()}
    for group in pruner.step(interactive=True):
        for dependency, units in group:
            name = names.get(dependency.target.module)
            if name not in masks:
                continue
            if pruner.DG.is_out_channel_pruning_fn(dependency.handler):
                masks[name][units] = False
            else:
                masks[name][:, units] = False
    return masks


def parameters_left(net: nn.Module, masks: Mapping[str, Tensor]) -> int:
    """Parameters of the smaller network: weights that stay, and biases of units that do."""
    total = 0
    for name, parameter in net.named_parameters():
        path, _, kind = name.rpartition(".")
        mask = masks.get(f"{path}.weight")
        if mask is None:
            total += parameter.numel()
        else:
            total += int(mask.sum() if kind == "weight" else mask.flatten(1).any(1).sum())
    return total


def missing(method: Method) -> str | None:
    """The package that a method needs and that is not installed; None if there is none."""
    package = getattr(method, "package", None)
    return package if package is not None and find_spec(package) is None else None
