"""What a method gets and gives, and the loop of the methods that are trained without a package."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from pyro_turbovbi.batches import as_batches
from pyro_turbovbi.data import TensorPair

ModuleT = TypeVar("ModuleT", bound=nn.Module)

#: Maps inputs, targets and the fraction of the training that is done to the loss to minimise.
Objective = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True, eq=False)
class Task:
    """One training.

    Attributes:
        net: The pretrained network, on the device; the method may change it.
        train: Training data, on the device.
        epochs: Passes over them.
        batch: Data points a step.
        seed: Seed of everything random.
        device: Where to train.
    """

    net: nn.Module
    train: TensorPair
    epochs: int
    batch: int
    seed: int
    device: torch.device

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * -(-len(self.train.x) // self.batch)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of all epochs, each epoch in a new order."""
        batches = as_batches(self.train, batch_size=self.batch, shuffle=True)
        for _ in range(self.epochs):
            for x, y in batches:
                assert isinstance(x, Tensor)
                yield x, y


@dataclass(frozen=True, eq=False)
class Trained:
    """What a method hands over: everything on the CPU.

    Attributes:
        net: The network with the weights to keep (posterior means), pruned weights included.
        masks: Which weights stay, by name of the weight.
        scales: Posterior standard deviations by name, where the method has any.
        notes: More figures of the training.
    """

    net: nn.Module
    masks: dict[str, Tensor]
    scales: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, float | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        net: nn.Module,
        masks: Mapping[str, Tensor],
        scales: Mapping[str, Tensor] | None = None,
        **notes: float | None,
    ) -> Trained:
        """The same, brought to the CPU and into evaluation mode."""
        plain = copy.deepcopy(net).cpu().eval().requires_grad_(False)
        on_cpu = [{n: t.detach().cpu() for n, t in ts.items()} for ts in (masks, scales or {})]
        finite = {name: s for name, s in on_cpu[1].items() if bool(s.isfinite().all())}
        return cls(plain, on_cpu[0], finite, notes)


class Method(Protocol):
    """A way to make a network sparse."""

    def train(self, task: Task) -> Trained:
        """Train the task's network."""

    def described(self) -> dict[str, Any]:
        """All settings, as JSON."""


def optimise(
    task: Task,
    parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
    objective: Objective,
    *,
    lr: float,
    after: Callable[[int], None] | None = None,
) -> None:
    """Adam with a rate that falls linearly to zero.

    Args:
        task: Says for how long, and on what.
        parameters: Parameters, or groups of them as torch's optimizers take them.
        objective: The loss.
        lr: First rate of the groups that have none of their own.
        after: Called after every step with the number of steps done.
    """
    optimizer = torch.optim.Adam(parameters, lr=lr, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step, (x, y) in enumerate(task.batches()):
        progress = step / task.steps
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1.0 - progress)
        optimizer.zero_grad()
        objective(x, y, progress).backward()
        optimizer.step()
        if after is not None:
            after(step + 1)


def cross_entropy(net: nn.Module) -> Objective:
    """The plain loss of a classifier."""
    return lambda x, y, _progress: nn.functional.cross_entropy(net(x), y)


@torch.no_grad()
def mask_weights(weights: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
    """Set pruned weights to zero, in place."""
    for name, weight in weights.items():
        weight.mul_(masks[name])


def replace_layers(
    net: nn.Module, make: Callable[[nn.Linear | nn.Conv2d], ModuleT]
) -> dict[str, ModuleT]:
    """Put others in the place of all linear and convolution layers, in place.

    Args:
        net: The network.
        make: Makes a layer's successor.

    Returns:
        The new layers by name.
    """
    layers: dict[str, ModuleT] = {}
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            parent, _, attribute = name.rpartition(".")
            layers[name] = make(layer)
            setattr(net.get_submodule(parent), attribute, layers[name])
    return layers


def weights_of(net: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that may be pruned: parameters with more than one dimension, by name."""
    return {name: p for name, p in net.named_parameters() if p.dim() > 1}
