"""What layers and calls in a traced graph do to units, see `coupling`.

Types are looked up exactly: a subclass may do anything. What is in none of these tables is treated
as something that mixes units.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
"""Convolutions, with the number of position dims."""

BATCH_NORMS: dict[type[nn.Module], int] = {
    nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3,
}  # fmt: skip
"""Normalisation of each entry of dim 1 by itself, with the number of position dims."""

MIXING_NORMS: frozenset[type[nn.Module]] = frozenset({
    nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
})  # fmt: skip
"""Normalisation that leaves units apart but counts them: none can be moved or taken out."""

POOLS: dict[Any, int] = {
    nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3,
    nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3,
    nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3,
    nn.AdaptiveMaxPool1d: 1, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveMaxPool3d: 3,
    F.max_pool1d: 1, F.max_pool2d: 2, F.max_pool3d: 3,
    F.avg_pool1d: 1, F.avg_pool2d: 2, F.avg_pool3d: 3,
    F.adaptive_avg_pool1d: 1, F.adaptive_avg_pool2d: 2, F.adaptive_avg_pool3d: 3,
    F.adaptive_max_pool1d: 1, F.adaptive_max_pool2d: 2,
}  # fmt: skip
"""Pooling over the positions of each channel by itself, with their number of dims."""

UNIT_WISE: frozenset[Any] = frozenset({
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
    torch.relu, torch.tanh, torch.sigmoid, torch.dropout,
    F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.gelu, F.silu, F.mish, F.tanh, F.sigmoid,
    F.softplus, F.hardtanh, F.hardswish, F.dropout, F.dropout2d,
    "relu", "relu_", "tanh", "sigmoid", "contiguous", "clone", "clamp",
})  # fmt: skip
"""Layers and calls without parameters that treat every entry by itself and keep the shape."""

KEEP_ROWS: frozenset[Any] = UNIT_WISE | {
    nn.Linear, nn.BatchNorm1d, nn.PReLU, nn.Softmax, nn.LogSoftmax,
    torch.softmax, torch.log_softmax, F.softmax, F.log_softmax, "softmax", "log_softmax",
}  # fmt: skip
"""Layers and calls that give a matrix as many rows as they get."""

FLATTENINGS: frozenset[Any] = frozenset({torch.flatten, "flatten"})
RESHAPES: frozenset[Any] = frozenset({torch.reshape, "view", "reshape"})
AVERAGES: frozenset[Any] = frozenset({torch.mean, torch.amax, "mean", "amax"})
SUMS: frozenset[Any] = frozenset({torch.add, operator.add, operator.iadd, "add", "add_"})

_FACTS = frozenset({"ndim", "dtype", "device"})
"""Attributes of a tensor that do not depend on how many units there are."""


def has_hooks(module: nn.Module) -> bool:
    """Whether something unknown happens before or behind a layer."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def flattens_all(node: fx.Node, dims: int | None) -> bool:
    """Whether a call flattens everything behind the dim of the batch.

    Args:
        node: A call out of `FLATTENINGS` or `RESHAPES`.
        dims: Number of dims of what it flattens, if that is known.
    """
    given = list(node.args[1:])
    if node.target in FLATTENINGS:
        start = given[0] if given else node.kwargs.get("start_dim", 0)
        end = given[1] if len(given) > 1 else node.kwargs.get("end_dim", -1)
        return is_whole(start, end, dims)
    sizes = given[0] if len(given) == 1 else given
    return (
        isinstance(sizes, (tuple, list))
        and len(sizes) == 2
        and _is_batch_size(sizes[0], node.args[0])
    )


def leaves_rows_open(node: fx.Node) -> bool:
    """Whether a call out of `RESHAPES` asks for rows of a given length, however many there are."""
    given = list(node.args[1:])
    sizes = given[0] if len(given) == 1 else given
    if not isinstance(sizes, (tuple, list)) or len(sizes) != 2:
        return False
    rows, length = sizes
    return isinstance(rows, int) and rows == -1 and isinstance(length, int)


def is_whole(start: Any, end: Any, dims: int | None) -> bool:
    """Whether a flattening from one dim to another leaves but the dim of the batch."""
    return bool(start == 1 and (end == -1 or (dims is not None and end == dims - 1)))


def averaged_dims(node: fx.Node, dims: int) -> set[int]:
    """The dims that a call out of `AVERAGES` reduces; empty: all, or not known.

    Args:
        node: The call.
        dims: Number of dims of what it reduces.
    """
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    listed = given if isinstance(given, (tuple, list)) else [given]
    if not all(isinstance(dim, int) and -dims <= dim < dims for dim in listed):
        return set()
    return {int(dim) % dims for dim in listed}  # type: ignore[arg-type]


def keeps_dims(node: fx.Node) -> bool:
    """Whether a call out of `AVERAGES` leaves a dim of size one where it reduces."""
    return bool(node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False))


def asked_sizes(node: fx.Node) -> list[Any] | None:
    """Numbers of the dims whose sizes a call or its users ask for.

    Args:
        node: Any call.

    Returns:
        The dims, as they are written in the forward method; None: the call is no question of sizes.
    """
    if node.target == "dim" or (node.target is getattr and node.args[1] in _FACTS):
        return []
    if node.target == "size" and (len(node.args) > 1 or node.kwargs):
        return [node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")]
    if node.target == "size" or (node.target is getattr and node.args[1] == "shape"):
        # A size that is unpacked and never used counts for nothing.
        used = [user for user in node.users if user.users or user.target is not operator.getitem]
        return [user.args[1] if user.target is operator.getitem else None for user in used]
    return None


def _is_batch_size(size: Any, value: Any) -> bool:
    """Whether this is the number of points of a value, or of an input of the network."""
    if not isinstance(size, fx.Node):
        return False
    if size.target is operator.getitem and size.args[1] == 0:
        shape = size.args[0]
        if not isinstance(shape, fx.Node) or asked_sizes(shape) is None:
            return False
        source = shape.args[0]
    elif size.target == "size" and asked_sizes(size) == [0]:
        source = size.args[0]
    else:
        return False
    return source is value or (isinstance(source, fx.Node) and source.op == "placeholder")
