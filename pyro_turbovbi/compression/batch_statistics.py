"""Batch norms that know the statistics of a whole data set.

The running mean and variance of a batch norm come from training: from weights that were uncertain,
uncut and still moving, averaged over the last batches. What it gets to see in the cut network has
another mean and variance.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

TOLERANCE = 1e-6
"""Change of mean (in standard deviations) and variance (relative) that counts as none."""
_CHUNK = 1024


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a network that keep running statistics."""
    norms = (norm for norm in module.modules() if isinstance(norm, _BatchNorm))
    return [norm for norm in norms if norm.running_mean is not None]


@torch.no_grad()
def with_statistics_of(module: nn.Module, x: Tensor) -> nn.Module:
    """Gives the batch norms of a network the statistics of their inputs over a whole data set.

    Afterwards the running mean of every batch norm is the mean of its inputs over all data, and its
    running variance their unbiased variance, the network being in evaluation mode. A batch norm
    that changes changes the inputs of those behind it, so this takes several passes over the data:
    at most as many as there are batch norms, fewer where the statistics settle earlier.

    Args:
        module: The network; it is not touched.
        x: All inputs, shape [points, ...].

    Returns:
        A copy in evaluation mode.
    """
    result = copy.deepcopy(module).eval()
    norms = batch_norms(result)
    for _ in norms:
        moments = _moments_of_inputs(result, norms, x)
        changes = [_set(norm, seen) for norm, seen in zip(norms, moments, strict=True)]
        if max(changes) <= TOLERANCE:
            break
    return result


class _Moments:
    """Mean and squared deviations of every channel over all that was seen, in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros(())

    def see(self, values: Tensor) -> None:
        """Adds the values of a batch, shape [points, channels, ...]."""
        dims = [dim for dim in range(values.dim()) if dim != 1]
        variance, mean = torch.var_mean(values.double(), dims, correction=0)
        count = values.numel() // values.shape[1]
        # Chan, Golub and LeVeque's update: nothing large is subtracted from something large.
        total, delta = self.count + count, mean - self.mean.to(mean)
        self.mean = mean - delta * (self.count / total)
        self.squares = self.squares.to(mean) + count * (
            variance + delta.square() * (self.count / total)
        )
        self.count = total


def _moments_of_inputs(module: nn.Module, norms: Sequence[_BatchNorm], x: Tensor) -> list[_Moments]:
    moments = [_Moments() for _ in norms]
    device = next(module.parameters()).device
    with _watching(norms, moments):
        for part in x.split(_CHUNK):
            module(part.to(device, copy=True))  # a layer of the user's may write into its input
    return moments


@contextmanager
def _watching(norms: Sequence[_BatchNorm], moments: Sequence[_Moments]) -> Iterator[None]:
    """Context in which moments see what goes into their batch norms."""

    def watch(norm: _BatchNorm, seen: _Moments) -> torch.utils.hooks.RemovableHandle:
        return norm.register_forward_pre_hook(lambda _, inputs: seen.see(inputs[0]))

    handles = [watch(norm, seen) for norm, seen in zip(norms, moments, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _set(norm: _BatchNorm, seen: _Moments) -> float:
    """Sets the statistics of a batch norm, and says by how much they change."""
    mean, variance = norm.running_mean, norm.running_var
    if seen.count < 2 or mean is None or variance is None:  # not used, or one value: no variance
        return 0.0
    before = mean.double(), variance.double() + norm.eps
    mean.copy_(seen.mean)
    variance.copy_(seen.squares / (seen.count - 1))
    shift = (mean.double() - before[0]).abs() / before[1].sqrt()
    growth = ((variance.double() + norm.eps) / before[1]).log().abs()
    return float(torch.maximum(shift, growth).max()) if mean.numel() else 0.0


__all__ = ["batch_norms", "with_statistics_of"]
