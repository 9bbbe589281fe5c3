"""Folds units that are constant into the next bias, in any network.

A unit is constant if none of its entries varies with the input. Where a linear layer or a
convolution reads it, what it contributes is added to the bias and its weights are set to zero; then
nobody reads the unit. This is exact only if the contribution is the same at all positions (zero
padding can make it differ at the border) and the layer runs once, so everything else is left as it
is.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.graph_flow import Flow, same_everywhere
from pyro_turbovbi.compression.graph_tape import Op, Tape
from pyro_turbovbi.compression.liveness import FLATNESS

_ATEN = torch.ops.aten
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
CHUNK = 64
"""Constant channels of a convolution that are looked at together."""


def fold_constants(net: nn.Module, flow: Flow) -> tuple[str, ...]:
    """Folds constant units into the biases of the layers that read them.

    Args:
        net: The recorded network in double precision; weights and biases are changed in place.
        flow: What varies in it.

    Returns:
        Names of the biases that were added to layers without one.
    """
    tape = flow.tape
    uses = Counter(number for op in tape.ops for number in op.inputs)
    added = []
    for op in tape.ops:
        layer = _layer(net, tape, op, uses)
        if layer is None:
            continue
        columns, contribution = _constants(flow, op)
        if bool(columns.any()) and _absorb(layer, op, columns, contribution):
            added.append(f"{tape.names[op.inputs[1]].removesuffix('weight')}bias")
    return tuple(added)


def _layer(net: nn.Module, tape: Tape, op: Op, uses: Counter[int]) -> nn.Module | None:
    """The layer of torch that an operation stands for, if it runs once and owns its tensors."""
    if op.kind not in (_ATEN.linear, _ATEN.convolution) or len(op.inputs) < 2:
        return None
    if any(n not in tape.names or uses[n] != 1 for n in op.inputs[1:]):
        return None
    path, _, attribute = tape.names[op.inputs[1]].rpartition(".")
    layer = net.get_submodule(path)
    return layer if type(layer) in _LAYERS and attribute == "weight" else None


def _constants(flow: Flow, op: Op) -> tuple[Tensor, Tensor]:
    """Which inputs of a layer are foldable constants other than zero, and what they contribute.

    Returns:
        Boolean, shape (units in,), and double precision, shape (units out,).
    """
    number = op.inputs[0]
    x, weight = flow.tape.values[number], flow.tape.values[op.inputs[1]]
    dim = x.ndim - 1 if op.kind is _ATEN.linear else 1
    # A constant that a layer reads may be a vector, without further dims.
    rows, varying = (
        each.movedim(dim, 0).unsqueeze(-1).flatten(1) for each in (x, flow.varies[number])
    )
    constant = ~varying.any(1).to(x.device)
    candidates = constant & (rows != 0).any(1)
    contribution = weight.new_zeros(weight.shape[0] if op.kind is _ATEN.linear else 0)
    if op.kind is _ATEN.linear:
        candidates &= same_everywhere(rows, FLATNESS).to(x.device)
        return candidates, weight[:, candidates] @ rows[candidates, 0]
    contribution = weight.new_zeros(weight.shape[0])
    for part in candidates.nonzero().flatten().split(CHUNK):
        alone = x.new_zeros(len(part), *x.shape[1:])
        for place, channel in enumerate(part.tolist()):
            alone[place, channel] = x[0, channel]
        made = torch.convolution(alone, weight, None, *op.args[3:]).flatten(2)
        flat = (made.amax(2) - made.amin(2) <= FLATNESS * made.abs().amax((1, 2))[:, None]).all(1)
        candidates[part] &= flat
        contribution += made[flat, :, 0].sum(0)
    return candidates, contribution


def _absorb(layer: nn.Module, op: Op, columns: Tensor, contribution: Tensor) -> bool:
    """Adds the contribution to the bias and cuts the weights; whether a bias was added."""
    missing = layer.bias is None
    with torch.no_grad():
        weight = layer.get_parameter("weight")
        if missing:
            bias = nn.Parameter(weight.new_zeros(weight.shape[0]))
            layer.bias = bias.requires_grad_(weight.requires_grad)
        layer.get_parameter("bias").add_(contribution)
        groups = int(getattr(layer, "groups", 1))
        shares = zip(weight.chunk(groups), columns.chunk(groups), strict=True)
        for rows, own in shares:
            rows[:, own] = 0.0
    return missing


__all__ = ["fold_constants"]
