"""Functions and tensor methods that a traced network may call, as the layers they stand for.

`F.relu(x)` in a forward method computes what `nn.ReLU()(x)` computes. The tables here say so for
every function that has a listed layer; shapes (`x.size(0)`, `x.shape[0]`) may be asked for as well,
to write `x.view(x.size(0), -1)`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_SOFTMAX = (nn.Softmax, ("dim",))
_LOG_SOFTMAX = (nn.LogSoftmax, ("dim",))
_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

Meaning = tuple[type[nn.Module], tuple[str, ...]]
"""The layer that a function stands for, and the function's arguments after the input."""

FUNCTIONS: Mapping[Callable[..., Any], Meaning] = {
    F.relu: (nn.ReLU, ()),
    torch.relu: (nn.ReLU, ()),
    F.relu6: (nn.ReLU6, ()),
    F.leaky_relu: (nn.LeakyReLU, ("negative_slope",)),
    F.elu: (nn.ELU, ("alpha",)),
    F.celu: (nn.CELU, ("alpha",)),
    F.selu: (nn.SELU, ()),
    F.gelu: (nn.GELU, ("approximate",)),
    F.silu: (nn.SiLU, ()),
    F.mish: (nn.Mish, ()),
    F.softplus: (nn.Softplus, ("beta", "threshold")),
    F.softsign: (nn.Softsign, ()),
    torch.tanh: (nn.Tanh, ()),
    F.tanh: (nn.Tanh, ()),
    F.tanhshrink: (nn.Tanhshrink, ()),
    F.hardtanh: (nn.Hardtanh, ("min_val", "max_val")),
    torch.sigmoid: (nn.Sigmoid, ()),
    F.sigmoid: (nn.Sigmoid, ()),
    F.logsigmoid: (nn.LogSigmoid, ()),
    F.hardsigmoid: (nn.Hardsigmoid, ()),
    F.hardswish: (nn.Hardswish, ()),
    F.hardshrink: (nn.Hardshrink, ("lambd",)),
    F.softshrink: (nn.Softshrink, ("lambd",)),
    F.softmax: _SOFTMAX,
    torch.softmax: _SOFTMAX,
    F.log_softmax: _LOG_SOFTMAX,
    torch.log_softmax: _LOG_SOFTMAX,
    F.dropout: (nn.Dropout, ("p", "training")),
    F.dropout1d: (nn.Dropout1d, ("p", "training")),
    F.dropout2d: (nn.Dropout2d, ("p", "training")),
    F.alpha_dropout: (nn.AlphaDropout, ("p", "training")),
    F.max_pool1d: (nn.MaxPool1d, _MAX_POOL),
    F.max_pool2d: (nn.MaxPool2d, _MAX_POOL),
    torch.max_pool1d: (nn.MaxPool1d, _MAX_POOL[:-1]),
    torch.max_pool2d: (nn.MaxPool2d, _MAX_POOL[:-1]),
    F.avg_pool1d: (nn.AvgPool1d, _AVG_POOL),
    F.avg_pool2d: (nn.AvgPool2d, (*_AVG_POOL, "divisor_override")),
    F.adaptive_avg_pool1d: (nn.AdaptiveAvgPool1d, ("output_size",)),
    F.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("output_size",)),
}
"""Functions that take the running value as their first argument and stand for one layer."""

METHODS: Mapping[str, Meaning] = {
    "relu": (nn.ReLU, ()),
    "relu_": (nn.ReLU, ()),
    "tanh": (nn.Tanh, ()),
    "tanh_": (nn.Tanh, ()),
    "sigmoid": (nn.Sigmoid, ()),
    "sigmoid_": (nn.Sigmoid, ()),
    "softmax": _SOFTMAX,
    "log_softmax": _LOG_SOFTMAX,
    "contiguous": (nn.Identity, ()),
}
"""Tensor methods that stand for one layer."""

RESHAPES: frozenset[object] = frozenset(
    {torch.flatten, torch.reshape, "flatten", "view", "reshape"}
)
"""Functions and methods that may turn (batch, ...) into (batch, features)."""

SIZE_ARITHMETIC: frozenset[object] = frozenset(
    {operator.getitem, operator.mul, operator.floordiv, operator.add}
)
"""What may be computed from sizes."""

SIZE_QUERIES: frozenset[object] = SIZE_ARITHMETIC | {"size", "dim", "numel", getattr}
"""The same, and how the shape of a value is asked for."""


def layer_for(
    meaning: Meaning, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> nn.Module | None:
    """The layer that a call stands for.

    Args:
        meaning: A line of a table.
        args: The positional arguments of the call after the input.
        kwargs: The named arguments of the call.

    Returns:
        The layer in evaluation mode; None if these arguments have no counterpart among the layers.
    """
    cls, names = meaning
    if len(args) > len(names):
        return None
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    # Writing in place, and how a warning is worded, do not change the value.
    for name in ("inplace", "_stacklevel"):
        given.pop(name, None)
    if given.pop("training", False) or given.pop("return_indices", False):
        return None
    if given.pop("dtype", None) is not None or not set(given) <= set(names):
        return None
    return cls(**given).eval()
