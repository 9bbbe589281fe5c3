"""Batch normalisation of a batch that several processes share: statistics of the whole batch.

`torch.nn.SyncBatchNorm` is another layer, and for GPUs alone. Here the function that all layers of
batch normalisation call is replaced while a network runs, so that the network stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

#: Puts sums over all processes in the place of tensors.
Add = Callable[[Tensor], None]


class SharedBatchNorm(TorchFunctionMode):
    """Context in which batch normalisation in training takes its moments over all processes.

    Args:
        add: The sum over the processes; None: nothing is replaced.
    """

    def __init__(self, add: Add | None) -> None:
        super().__init__()
        self._add = add

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See `TorchFunctionMode`."""
        if func is F.batch_norm and self._add is not None:
            return _batch_norm(self._add, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    add: Add,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` over the parts of a batch, [rows, channels, ...]."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = [0, *range(2, input.dim())]
    x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    count, mean, var = _moments(add, x, dims)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            unbiased = var * (count / (count - 1.0).clamp_min(1.0))
            running_var.lerp_(unbiased.to(running_var), momentum)
    shape = [1, -1, *[1] * (input.dim() - 2)]
    scale = (var + eps).rsqrt() * (1.0 if weight is None else weight)
    output = (x - mean.view(shape)) * scale.view(shape)
    if bias is not None:
        output = output + bias.view(shape)
    return output.to(input.dtype)


def _moments(add: Add, x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values of a channel in all processes, their mean and their variance.

    The squares are taken about the mean of all: sums of squares would cancel.
    """
    channels = x.shape[1]
    number = x.new_full((1,), x.numel() / channels)
    sum_over_all: Any = _Sum.apply
    sums = sum_over_all(torch.cat([x.sum(dims), number]), add)
    count = sums[-1].detach()
    mean = sums[:-1] / count
    centred = x - mean.view([1, -1, *[1] * (x.dim() - 2)])
    squares = sum_over_all(centred.square().sum(dims), add)
    return count, mean, squares / count


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, since each one's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, add: Add) -> Tensor:
        ctx.add = add
        total = part.clone()
        add(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.contiguous().clone()
        ctx.add(total)
        return total, None
