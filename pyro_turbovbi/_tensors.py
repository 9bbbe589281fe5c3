"""Puts other tensors in the place of a module's own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def named_tensors(net: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers under all their names: those that are shared have several."""
    named: dict[str, Tensor] = dict(net.named_parameters(remove_duplicate=False))
    return named | dict(net.named_buffers(remove_duplicate=False))


def replace_tensor(net: nn.Module, name: str, value: Tensor) -> None:
    """Put another tensor in the place of a parameter or buffer, under all names that it has.

    Args:
        net: The module that has it, changed in place.
        name: One of its names.
        value: The new values, of any shape; a parameter's become a parameter.
    """
    named = named_tensors(net)
    old = named[name]
    new = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
    for other, tensor in named.items():
        if tensor is old:
            path, _, attribute = other.rpartition(".")
            _put(net.get_submodule(path), attribute, new)


def _put(module: nn.Module, attribute: str, tensor: Tensor) -> None:
    # Not setattr: a parametrised module would run the inverse of its parametrisation.
    registry: dict[str, Any] = (
        module._parameters if isinstance(tensor, nn.Parameter) else module._buffers
    )
    registry[attribute] = tensor
