"""Checks support masks against a network and applies them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.regularity import as_bool
from pyro_turbovbi.errors import InvalidDataError, ShapeError, SiteError


def masked(net: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Copies a network and sets the pruned weights to zero.

    Args:
        net: The network, carrying the weights to keep; it is not touched.
        masks: Parameter name to mask of the parameter's shape: kept weights True or 1.

    Returns:
        A deep copy in evaluation mode.

    Raises:
        SiteError: If the network has no parameter of a given name.
        ShapeError: If a mask has another shape than its parameter.
        InvalidArgumentError: If a mask is no tensor, or holds values other than 0 and 1.
        InvalidDataError: If a parameter is not finite.
    """
    parameters = dict(net.named_parameters(remove_duplicate=False))
    checked = {name: _check(name, mask, parameters) for name, mask in masks.items()}
    for name, parameter in parameters.items():
        if not parameter.isfinite().all():
            raise InvalidDataError(
                f"parameter '{name}' holds NaN or infinity", accepted="finite weights"
            )
    result = copy.deepcopy(net).eval()
    copies = dict(result.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, mask in checked.items():
            copies[name].masked_fill_(~mask, 0.0)
    return result


def _check(name: str, mask: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    if name not in parameters:
        raise SiteError(
            "a mask is given for a parameter that the network does not have",
            given=name,
            accepted=parameters,
        )
    parameter, mask = parameters[name], as_bool(mask, f"the mask of '{name}'")
    if mask.shape != parameter.shape:
        raise ShapeError(
            f"the mask of '{name}' does not have the shape of its parameter",
            given=str(tuple(mask.shape)),
            accepted=str(tuple(parameter.shape)),
        )
    return mask.to(parameter.device)
