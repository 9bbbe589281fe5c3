"""Sparse linear regression with a structured support whose truth is known."""

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
    weight = _signed_magnitudes(support, generator)
    x = _normal((measurements, weights), generator) / measurements**0.5
    y = x @ weight + noise * _normal((measurements,), generator)
    return Recovery(x.to(dtype), y.to(dtype), weight.to(dtype), support)


class GatedRecovery(NamedTuple):
    """A recovery problem with several outputs, of which most inputs matter to none.

    Attributes:
        x: Measurement matrix `[measurements, inputs]`.
        y: Measurements `[measurements, outputs]`, `x @ weight.T` plus noise.
        weight: True weights `[outputs, inputs]`.
        support: True where `weight` is not zero, `[outputs, inputs]`, boolean.
        relevant: True for inputs that matter to an output, `[inputs]`, boolean.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    support: Tensor
    relevant: Tensor


def gated_recovery(
    measurements: int = 40,
    *,
    outputs: int = 20,
    inputs: int = 200,
    relevant: int = 20,
    density: float = 0.5,
    mean_run: float = 4.0,
    noise: float = 0.02,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> GatedRecovery:
    """Draws `Y = X W^T + noise` with a `W` whose non-zeros lie in few columns, in runs.

    Relevant inputs lie anywhere; the outputs to which one matters form a stationary binary Markov
    chain. Everything else is as in `recovery`.

    Args:
        measurements: Number of observations.
        outputs: Number of outputs.
        inputs: Number of inputs.
        relevant: Number of inputs that may matter.
        density: Share of the outputs to which a relevant input matters, inside (0, 1).
        mean_run: Mean number of neighbouring outputs to which it matters, at least
            `max(1, density / (1 - density))`.
        noise: Standard deviation of the noise.
        seed: Seed of everything; the global random state is not touched.
        dtype: Floating type of `x`, `y` and `weight`.

    Returns:
        The problem with its true weights, support and relevant inputs. An input that by chance
        matters to no output is not relevant.

    Raises:
        InvalidArgumentError: If a count is not positive, `noise` is negative, there are more
            relevant inputs than inputs, or no chain has that density and mean run.
    """
    _check(measurements, inputs, 1, relevant, noise)
    _check_chain(outputs, density, mean_run)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(inputs, generator=generator)[:relevant]
    support = torch.zeros(outputs, inputs, dtype=torch.bool)
    support[:, chosen] = _chains(outputs, relevant, density, mean_run, generator)
    weight = _signed_magnitudes(support, generator)
    x = _normal((measurements, inputs), generator) / measurements**0.5
    y = x @ weight.T + noise * _normal((measurements, outputs), generator)
    return GatedRecovery(x.to(dtype), y.to(dtype), weight.to(dtype), support, support.any(0))


def _chains(
    length: int, count: int, density: float, mean_run: float, generator: torch.Generator
) -> Tensor:
    """Stationary binary Markov chains `[length, count]`, boolean."""
    uniform = torch.rand(length, count, generator=generator, dtype=torch.float64)
    ends = 1.0 / mean_run
    states = [uniform[0] < density]
    for step in uniform[1:]:
        starts = ends * density / (1.0 - density)
        states.append(torch.where(states[-1], step >= ends, step < starts))
    return torch.stack(states)


def _signed_magnitudes(support: Tensor, generator: torch.Generator) -> Tensor:
    """Weights with magnitudes uniform in [0.5, 1.5] and random signs on a support, else zero."""
    spread = _LARGEST_MAGNITUDE - _SMALLEST_MAGNITUDE
    magnitude = _SMALLEST_MAGNITUDE + spread * _uniform(support.shape, generator)
    sign = torch.where(_uniform(support.shape, generator) < 0.5, -1.0, 1.0)
    return torch.where(support, sign * magnitude, 0.0)


def _clustered_support(
    weights: int, clusters: int, length: int, generator: torch.Generator
) -> Tensor:
    # Distinct sorted positions among the zeros' gaps: every arrangement is equally likely.
    gaps = torch.randperm(weights - clusters * length + 1, generator=generator)[:clusters]
    starts = gaps.sort().values + length * torch.arange(clusters)
    support = torch.zeros(weights, dtype=torch.bool)
    support[(starts[:, None] + torch.arange(length)).flatten()] = True
    return support


def _uniform(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


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


def _check_chain(length: int, density: float, mean_run: float) -> None:
    if length < 1:
        raise InvalidArgumentError("outputs is too small", given=length, accepted="at least 1")
    possible = 0.0 < density < 1.0 and mean_run >= max(1.0, density / (1.0 - density))
    if not possible:
        raise InvalidArgumentError(
            "no chain has this density and mean run",
            given=f"density {density}, mean run {mean_run}",
            accepted="a density in (0, 1), a mean run of at least max(1, density / (1 - density))",
        )
