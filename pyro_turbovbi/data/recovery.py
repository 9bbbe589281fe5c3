"""Sparse linear regression with a clustered support whose truth is known."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError

_SMALLEST_MAGNITUDE = 0.5
_LARGEST_MAGNITUDE = 1.5


class Recovery(NamedTuple):
    """A recovery problem and its solution.

    Attributes:
        x: Measurement matrix `[measurements, weights]`.
        y: Measurements `[measurements]`, `x @ weight` plus noise.
        weight: True weights `[weights]`.
        support: True where `weight` is not zero, `[weights]`, boolean.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    support: Tensor


def recovery(
    measurements: int = 150,
    *,
    weights: int = 1000,
    clusters: int = 5,
    cluster_length: int = 10,
    noise: float = 0.02,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Recovery:
    """Draws `y = X w + noise` with a `w` whose non-zeros form separate clusters.

    Entries of X are normal with variance `1 / measurements`; non-zero weights have a magnitude
    uniform in [0.5, 1.5] and a random sign; clusters lie anywhere, with at least one zero between.
    The numbers are drawn in double precision: a seed means the same problem in every dtype.

    Args:
        measurements: Number of observations.
        weights: Length of `w`.
        clusters: Number of runs of non-zeros.
        cluster_length: Length of each run.
        noise: Standard deviation of the noise.
        seed: Seed of everything; the global random state is not touched.
        dtype: Floating type of `x`, `y` and `weight`.

    Returns:
        The problem with its true weights and support.

    Raises:
        InvalidArgumentError: If a count is not positive, `noise` is negative, or the clusters do
            not fit into `weights`.
    """
    _check(measurements, weights, clusters, cluster_length, noise)
    generator = torch.Generator().manual_seed(seed)
    support = _clustered_support(weights, clusters, cluster_length, generator)
    spread = _LARGEST_MAGNITUDE - _SMALLEST_MAGNITUDE
    magnitude = _SMALLEST_MAGNITUDE + spread * _uniform(weights, generator)
    sign = torch.where(_uniform(weights, generator) < 0.5, -1.0, 1.0)
    weight = torch.where(support, sign * magnitude, 0.0)
    x = _normal((measurements, weights), generator) / measurements**0.5
    y = x @ weight + noise * _normal((measurements,), generator)
    return Recovery(x.to(dtype), y.to(dtype), weight.to(dtype), support)


def _clustered_support(
    weights: int, clusters: int, length: int, generator: torch.Generator
) -> Tensor:
    # Distinct sorted positions among the zeros' gaps: every arrangement is equally likely.
    gaps = torch.randperm(weights - clusters * length + 1, generator=generator)[:clusters]
    starts = gaps.sort().values + length * torch.arange(clusters)
    support = torch.zeros(weights, dtype=torch.bool)
    support[(starts[:, None] + torch.arange(length)).flatten()] = True
    return support


def _uniform(length: int, generator: torch.Generator) -> Tensor:
    return torch.rand(length, generator=generator, dtype=torch.float64)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _check(
    measurements: int, weights: int, clusters: int, cluster_length: int, noise: float
) -> None:
    counts = {"measurements": measurements, "weights": weights, "clusters": clusters}
    counts["cluster_length"] = cluster_length
    for name, count in counts.items():
        if count < 1:
            raise InvalidArgumentError(f"{name} is too small", given=count, accepted="at least 1")
    if noise < 0:
        raise InvalidArgumentError("noise is negative", given=noise, accepted="0 or more")
    needed = clusters * (cluster_length + 1) - 1
    if needed > weights:
        raise InvalidArgumentError(
            "the clusters do not fit into the weights",
            given=f"{clusters} clusters of {cluster_length} in {weights} weights",
            accepted=f"at least {needed} weights",
        )
