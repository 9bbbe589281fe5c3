"""Sparse priors of whole groups of weights: one scale, or one norm, per input unit.

A group is a slice of the weight along one dimension: by default the second, which counts the inputs
of a linear layer and the input channels of a convolution. A group that is pruned frees its unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_turbovbi.distributions.shrinkage import GroupLaplace, LogUniformNormal, group_norms
from pyro_turbovbi.priors._checks import a_number, group_dim, ordered, positive
from pyro_turbovbi.priors.base import Moments, NonCentred, Prior, emit_each
from pyro_turbovbi.priors.shrinkage import log_dropout, root_mean_square


@dataclass(frozen=True)
class GroupNormalJeffreys(NonCentred):
    """One scale per group under Jeffreys' law p(z) ~ 1 / |z|, and normal weights in units of it.

        w = z r,   r_n ~ Normal(0, 1)      ``{name}_raw``, the weight's shape
                   z_g ~ 1 / |z|           ``{name}_scale``, the weight's rank, one per group

    As with `LogUniform`, the improper law is bounded: z_g is normal with a log-uniform scale
    between `low` and `high`. The authors' family q(z) q(r), both normal, is what ``auto_normal``
    fits.

    Pruning: a group stays where the log dropout rate of its scale, ln(Var z / (E z)^2), is below
    `threshold`; a MAP estimate has no such rate: every group stays. (Where a sampler visits both
    signs of z and r the rate means nothing: rank with ``keep=`` then.) The authors pick the
    threshold by eye, between the two humps of the histogram of rates.

    Args:
        low: Smallest scale.
        high: Largest scale.
        threshold: Log dropout rate from which on a group is pruned. At -3 the scale's standard
            deviation is about a fifth of its mean.
        dim: Dimension that counts the groups. Default: 1, the inputs (0 for vectors).

    Raises:
        InvalidArgumentError: if a bound is not positive and finite, or they are in the wrong order.

    Source: C. Louizos, K. Ullrich, M. Welling, "Bayesian compression for deep learning", NeurIPS
    2017, arXiv 1705.08665.
    """

    low: float = 1e-3
    high: float = 10.0
    threshold: float = -3.0
    dim: int | None = None

    def __post_init__(self) -> None:
        positive(self, "low", "high")
        a_number(self, "threshold")
        ordered(self, "low", "high")

    def pieces(self, name: str, shape: torch.Size, like: Tensor) -> dict[str, Tensor]:
        """See `NonCentred.pieces`."""
        groups = _one_per_group(shape, group_dim(self, self.dim, name, shape))
        scale: dist.TorchDistribution = LogUniformNormal(groups, self.low, self.high, like)
        laws = {
            f"{name}_scale": scale.to_event(len(shape)),
            f"{name}_raw": dist.Normal(like.new_zeros(shape), 1.0).to_event(len(shape)),
        }
        return emit_each(laws)

    def weight(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """See `Prior.weight`."""
        return values[f"{name}_scale"] * values[f"{name}_raw"]

    def start(self, name: str, init: Tensor) -> dict[str, Tensor]:
        """See `Prior.start`: z = 1, so that r is the start weight."""
        groups = _one_per_group(init.shape, group_dim(self, self.dim, name, init.shape))
        return {f"{name}_scale": init.new_ones(groups), f"{name}_raw": init}

    def survivors(self, name: str, moments: Mapping[str, Moments]) -> Tensor | None:
        """See `Prior.survivors`: log dropout rate of z below the threshold."""
        mean, scale = moments[f"{name}_scale"]
        if not bool((scale > 0).all()):
            return None
        kept = log_dropout(mean, scale) < self.threshold
        return kept.expand(moments[f"{name}_raw"].mean.shape).clone()


@dataclass(frozen=True)
class GroupHorseshoe(NonCentred):
    """One half-Cauchy scale per group, one for all, and normal weights in units of them.

        w = s z r,   r_n ~ Normal(0, 1)                                    ``{name}_raw``
                     s^2 = s_a s_b,     s ~ HalfCauchy(global_scale)
                     z_g^2 = a_g b_g,   z_g ~ HalfCauchy(1)

    Each half-Cauchy law of scale k is split as its authors do, x^2 = a b with a ~ Gamma(1/2, rate
    1 / k^2) and b ~ InverseGamma(1/2, 1): sites ``{name}_global_a``, ``{name}_global_b`` (scalars)
    and ``{name}_local_a``, ``{name}_local_b`` (one per group). Under ``auto_normal`` all four are
    log-normal, and so are s and z: the authors' family. The Gamma density has no upper bound at
    zero, so there is no MAP estimate.

    Pruning: a group stays where the negative log-mode of its log-normal scale z_g, Var(ln z) -
    E[ln z], is at most `threshold` above the smallest one of the weight. The authors compare it
    with an absolute threshold that they pick by eye; the difference does not depend on the global
    scale.

    Args:
        global_scale: Scale of s, positive.
        threshold: In nats; 3 prunes groups whose typical scale is a twentieth of the largest.
        dim: Dimension that counts the groups. Default: 1, the inputs (0 for vectors).

    Raises:
        InvalidArgumentError: if a number is not positive and finite.

    Source: C. Louizos, K. Ullrich, M. Welling, "Bayesian compression for deep learning", NeurIPS
    2017, arXiv 1705.08665; the split: S. E. Neville, J. T. Ormerod, M. P. Wand, "Mean field
    variational Bayes for continuous sparse signal shrinkage", Electron. J. Statist. 8:1113-1151,
    2014.
    """

    global_scale: float = 0.01
    threshold: float = 3.0
    dim: int | None = None

    inference = frozenset({"vi", "mcmc"})

    def __post_init__(self) -> None:
        positive(self, "global_scale", "threshold")

    def pieces(self, name: str, shape: torch.Size, like: Tensor) -> dict[str, Tensor]:
        """See `NonCentred.pieces`."""
        groups, dims = _one_per_group(shape, group_dim(self, self.dim, name, shape)), len(shape)
        each, half = like.new_ones(groups), like.new_full((), 0.5)
        one = like.new_ones(())
        laws = {
            f"{name}_global_a": dist.Gamma(half, self.global_scale**-2 * one),
            f"{name}_global_b": dist.InverseGamma(half, one),
            f"{name}_local_a": dist.Gamma(half * each, each).to_event(dims),
            f"{name}_local_b": dist.InverseGamma(half * each, each).to_event(dims),
            f"{name}_raw": dist.Normal(like.new_zeros(shape), 1.0).to_event(dims),
        }
        return emit_each(laws)

    def weight(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """See `Prior.weight`."""
        # roots one by one: the product of four scales may leave the range of single precision
        pieces = ("global_a", "global_b", "local_a", "local_b")
        scale = values[f"{name}_raw"]
        for piece in pieces:
            scale = scale * values[f"{name}_{piece}"].sqrt()
        return scale

    def start(self, name: str, init: Tensor) -> dict[str, Tensor]:
        """See `Prior.start`: s at its scale, z at the size of each group, r of size 1."""
        dim = group_dim(self, self.dim, name, init.shape)
        inside = [axis for axis in range(init.dim()) if axis != dim]
        size = root_mean_square(init, inside)
        one = init.new_ones(())
        # The inverse-gamma factor has the heavy tail: it carries what is far from typical.
        return {
            f"{name}_global_a": self.global_scale**2 * one,
            f"{name}_global_b": one,
            f"{name}_local_a": torch.ones_like(size),
            f"{name}_local_b": (size / self.global_scale).square(),
            f"{name}_raw": init / size,
        }

    def survivors(self, name: str, moments: Mapping[str, Moments]) -> Tensor | None:
        """See `Prior.survivors`: log-mode of z within the threshold of the largest."""
        a, b = moments[f"{name}_local_a"], moments[f"{name}_local_b"]
        # ln z = (ln a + ln b) / 2; the sites are positive, so these are moments of logarithms
        log_mode = 0.5 * (a.mean + b.mean) - 0.25 * (a.scale.square() + b.scale.square())
        kept = log_mode >= log_mode.max() - self.threshold
        return kept.expand(moments[f"{name}_raw"].mean.shape).clone()


@dataclass(frozen=True)
class GroupLasso(Prior):
    """A penalty on the norms of groups, p(w) ~ exp(-strength sum_g ||w_g||), for MAP estimates.

    Pruning: at the exact mode whole groups are zero, and these are what the authors drop. An
    optimiser such as Adam only moves to and fro around zero, by about its step, so that a group
    counts as zero here where its norm is below `tolerance` times the largest one of the weight.

    Args:
        strength: Rate of the penalty, positive; units of 1 / weight. The authors' penalty grows
            with the square root of the group's size: multiply by it for groups of several sizes.
        tolerance: Norm below which a group counts as zero, as a share of the largest.
        dim: Dimension that counts the groups. Default: 1, the inputs (0 for vectors).

    Raises:
        InvalidArgumentError: if a number is not positive and finite.

    Source: M. Yuan, Y. Lin, "Model selection and estimation in regression with grouped variables",
    JRSS B 68(1):49-67, 2006; for neural nets S. Scardapane and others, "Group sparse regularization
    for deep neural networks", Neurocomputing 241:81-89, 2017.
    """

    strength: float = 1.0
    tolerance: float = 0.01
    dim: int | None = None

    inference = frozenset({"map"})

    def __post_init__(self) -> None:
        positive(self, "strength", "tolerance")

    def emit(self, name: str, shape: torch.Size, like: Tensor) -> Tensor:
        """Emit the single site ``{name}``. See `Prior.emit`."""
        dim = group_dim(self, self.dim, name, shape)
        return pyro.sample(name, GroupLaplace(shape, self.strength, dim, like))

    def survivors(self, name: str, moments: Mapping[str, Moments]) -> Tensor:
        """See `Prior.survivors`: norm of the group above the tolerance."""
        mean = moments[name].mean
        dim = group_dim(self, self.dim, name, mean.shape)
        norms = group_norms(mean, [axis for axis in range(mean.dim()) if axis != dim])
        kept = norms > self.tolerance * norms.max()
        return kept.expand(mean.shape).clone()


def _one_per_group(shape: torch.Size, dim: int) -> list[int]:
    """Shape of the weight's rank with one element per group."""
    return [size if axis == dim else 1 for axis, size in enumerate(shape)]


__all__ = ["GroupHorseshoe", "GroupLasso", "GroupNormalJeffreys"]
