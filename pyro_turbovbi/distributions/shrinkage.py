"""Continuous laws of weights that shrink: two normals, log-uniform scales, groups."""

from __future__ import annotations

from collections.abc import Sequence
from math import lgamma, log, pi, sqrt
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.special import log_ndtr

#: Below this fraction of the smallest scale the log-uniform density is flat to 1e-6.
_FLAT = 1e-3


class HalfCauchy(dist.HalfCauchy):  # type: ignore[misc]  # Pyro makes it at import time
    """Pyro's half-Cauchy law with draws that Pyro can follow.

    Torch makes its noise by a call that Pyro's dependency analysis (`AutoStructured`,
    `pyro.render_model`) turns into a tensor of another shape where the scale is itself a draw.
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, shape ``sample_shape + batch_shape``: tan(pi u / 2) for uniform u."""
        scale = self.base_dist.scale
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=scale.dtype, device=scale.device)
        result: Tensor = scale * (0.5 * pi * u.clamp(min=torch.finfo(scale.dtype).eps)).tan()
        return result

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """As `rsample`, without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)


class NormalMixture(TorchDistribution):
    """A spike and a slab, mixed element by element and the choice summed out.

    w ~ density Normal(0, slab^2) + (1 - density) Normal(0, spike^2)

    Args:
        shape: Shape of the tensor; its elements are independent (batch dimensions).
        density: Probability of the slab, in (0, 1).
        slab: Standard deviation of the slab.
        spike: Standard deviation of the spike.
        like: Tensor that carries device and dtype.
        validate_args: Whether `log_prob` checks its argument; None is torch's default.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real

    def __init__(
        self,
        shape: Sequence[int],
        density: float,
        slab: float,
        spike: float,
        like: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.density, self.slab, self.spike, self._like = density, slab, spike, like
        super().__init__(torch.Size(shape), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalMixture:
        """The same law with another batch shape."""
        return NormalMixture(
            batch_shape, self.density, self.slab, self.spike, self._like, self._validate_args
        )

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Exact draws, shape ``sample_shape + batch_shape``."""
        with torch.no_grad():
            noise = self._like.new_empty(self._extended_shape(torch.Size(sample_shape))).normal_()
            active = torch.rand_like(noise) < self.density
            return noise * torch.where(active, self.slab, self.spike).to(noise)

    def log_odds(self, value: Tensor) -> Tensor:
        """Log-odds of the slab, ln P(slab | w) - ln P(spike | w), in the shape of `value`."""
        gain = 0.5 * (self.spike**-2 - self.slab**-2)
        start = log(self.density / (1 - self.density)) - log(self.slab / self.spike)
        return start + gain * value.square()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, element by element."""
        if self._validate_args:
            self._validate_sample(value)
        spike = -0.5 * (value / self.spike).square() - log(self.spike * sqrt(2 * pi))
        slab_gain = torch.logaddexp(self.log_odds(value), torch.zeros_like(value))
        return spike + log(1 - self.density) + slab_gain


class LogUniformNormal(TorchDistribution):
    """Normal with a log-uniform scale that is integrated out: 1 / |w| between two bounds.

    ln s ~ Uniform(ln low, ln high), w | s ~ Normal(0, s^2) gives

        p(w) = (Phi(|w| / low) - Phi(|w| / high)) / (|w| ln(high / low)),

    a proper law that equals 1 / (2 |w| ln(high / low)) for low << |w| << high, is flat below `low`
    and falls off like a normal density above `high`.

    Args:
        shape: Shape of the tensor; its elements are independent (batch dimensions).
        low: Smallest scale, positive.
        high: Largest scale, greater than `low`.
        like: Tensor that carries device and dtype.
        validate_args: Whether `log_prob` checks its argument; None is torch's default.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real

    def __init__(
        self,
        shape: Sequence[int],
        low: float,
        high: float,
        like: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.low, self.high, self._like = low, high, like
        super().__init__(torch.Size(shape), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogUniformNormal:
        """The same law with another batch shape."""
        return LogUniformNormal(batch_shape, self.low, self.high, self._like, self._validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Exact draws, shape ``sample_shape + batch_shape``."""
        with torch.no_grad():
            noise = self._like.new_empty(self._extended_shape(torch.Size(sample_shape))).normal_()
            log_scale = log(self.low) + log(self.high / self.low) * torch.rand_like(noise)
            return noise * log_scale.exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, element by element."""
        if self._validate_args:
            self._validate_sample(value)
        size = value.abs().clamp(min=_FLAT * self.low)
        # Two forms of the same difference, each where it does not cancel.
        inner, outer = size.clamp(max=self.high), size.clamp(min=self.high)
        root = sqrt(2.0)
        near = 0.5 * (inner / (self.low * root)).erf() - 0.5 * (inner / (self.high * root)).erf()
        # ten deviations further out there is nothing left, but a slope that is not finite
        further = torch.minimum(outer / self.low, outer / self.high + 10.0)
        first, second = log_ndtr(-outer / self.high), log_ndtr(-further)
        far = first + torch.log1p(-(second - first).exp())
        mass = torch.where(size <= self.high, near.log(), far)
        return mass - size.log() - log(log(self.high / self.low))


class GroupLaplace(TorchDistribution):
    """Groups of weights under a multivariate Laplace law: exp(-strength * Euclidean norm).

    With d weights in a group the normaliser of a group is

        Z = 2 pi^(d/2) / Gamma(d/2) * Gamma(d) / strength^d,

    the surface of the unit sphere times the integral of r^(d - 1) exp(-strength r).

    Args:
        shape: Shape of the tensor (event dimensions).
        strength: Rate of the penalty, positive; units of 1 / weight.
        dim: Dimension that counts the groups; all others run inside a group.
        like: Tensor that carries device and dtype.
        validate_args: Whether `log_prob` checks its argument; None is torch's default.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        shape: Sequence[int],
        strength: float,
        dim: int,
        like: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.strength, self.dim, self._like = strength, dim, like
        super().__init__(torch.Size(), torch.Size(shape), validate_args=validate_args)

    @constraints.dependent_property(event_dim=None)
    def support(self) -> constraints.Constraint:
        """All tensors of the shape."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def _inside(self) -> list[int]:
        """Dimensions of a group, counted from the end."""
        rank = len(self.event_shape)
        return [axis - rank for axis in range(rank) if axis != self.dim]

    def _norms(self, value: Tensor) -> Tensor:
        """Norm of every group, with the group's own dimensions kept as ones."""
        return group_norms(value, self._inside())

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Exact draws, ``sample_shape + shape``: a Gamma radius times a uniform direction."""
        with torch.no_grad():
            shape = torch.Size(sample_shape) + self.event_shape
            noise = self._like.new_empty(shape).normal_()
            norms = self._norms(noise)
            size = float(self._size())
            radius = torch._standard_gamma(torch.full_like(norms, size)) / self.strength
            return noise / norms * radius

    def _size(self) -> int:
        return self.event_shape.numel() // self.event_shape[self.dim]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of the whole tensor; shape: the batch of `value`."""
        if self._validate_args:
            self._validate_sample(value)
        d, groups = self._size(), self.event_shape[self.dim]
        log_normaliser = (
            log(2) + d / 2 * log(pi) - lgamma(d / 2) + lgamma(d) - d * log(self.strength)
        )
        norms = self._norms(value)
        total: Tensor = norms.flatten(norms.dim() - len(self.event_shape)).sum(-1)
        return -self.strength * total - groups * log_normaliser


def group_norms(value: Tensor, inside: Sequence[int]) -> Tensor:
    """Euclidean norms over some dimensions, which stay as ones; gradient zero at zero."""
    return (
        torch.linalg.vector_norm(value, dim=list(inside), keepdim=True) if inside else value.abs()
    )
