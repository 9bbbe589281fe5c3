"""The state of torch's and Pyro's optimizers as trees of plain data and tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_turbovbi.persistence.trees import snapshot

Optimizer = torch.optim.Optimizer


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer has accumulated, and its rates.

    Args:
        optimizer: Any torch optimizer whose settings are plain data.
    """
    saved = optimizer.state_dict()
    return {
        "state": [[number, values] for number, values in saved["state"].items()],
        "groups": [_without_parameters(group) for group in saved["param_groups"]],
    }


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Give an optimizer over the same parameters what `optimizer_state` returned."""
    groups = [
        group | {name: _like(group[name], value) for name, value in new.items()}
        for group, new in zip(optimizer.state_dict()["param_groups"], saved["groups"], strict=True)
    ]
    state = {number: snapshot(values) for number, values in saved["state"]}
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def scale_rates(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Multiply all learning rates."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= factor


def pyro_optimizers(optim: Any, parameters: Mapping[str, Tensor]) -> dict[str, Optimizer]:
    """The torch optimizers behind one of Pyro's, one a parameter; they are made if need be.

    Pyro makes one at a parameter's first step, and looks its state up under a name that parameters
    which are local to their module do not have.

    Args:
        optim: A `pyro.optim.PyroOptim`.
        parameters: The parameters by name.
    """
    for parameter in parameters.values():
        if parameter not in optim.optim_objs:
            optim.optim_objs[parameter] = optim._get_optim(parameter)
            optim.grad_clip[parameter] = optim._get_grad_clip(parameter)
    return {name: optim.optim_objs[parameter] for name, parameter in parameters.items()}


def _without_parameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _like(old: object, new: Any) -> Any:
    """A setting as a tuple, where it is one: trees know lists alone."""
    return tuple(new) if isinstance(old, tuple) else new
