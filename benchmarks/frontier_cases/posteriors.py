"""Posteriors of weights under three sparse priors, with their KL terms in closed form.

The families that `engines.SVI` fits under `priors.LogUniform`, `priors.GroupNormalJeffreys` and
`priors.GroupHorseshoe`; the pruning rules are the priors' own.

Sources of the closed forms: D. Molchanov, A. Ashukha, D. Vetrov, "Variational dropout sparsifies
deep neural networks", ICML 2017 (log-uniform law, an approximation up to a constant); C. Louizos,
K. Ullrich, M. Welling, "Bayesian compression for deep learning", NeurIPS 2017 (the groups).
"""

from __future__ import annotations

from math import lgamma, log, pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_turbovbi.priors import GroupHorseshoe, GroupNormalJeffreys, LogUniform
from pyro_turbovbi.priors.base import Moments

SparsePrior = LogUniform | GroupNormalJeffreys | GroupHorseshoe

#: Start of all posterior standard deviations.
START_SCALE = 0.01


class Normal(nn.Module):
    """Independent normal values, each with a mean and a scale of its own.

    Args:
        start: Means to start from.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.loc = nn.Parameter(start.detach().clone())
        self.log_scale = nn.Parameter(torch.full_like(start, log(START_SCALE)))

    @property
    def variance(self) -> Tensor:
        """Variances, the means' shape."""
        return (2.0 * self.log_scale).exp()

    def entropy(self) -> Tensor:
        """Sum of the entropies, in nats."""
        return (self.log_scale + 0.5 * log(2.0 * pi) + 0.5).sum()

    def moments(self) -> Moments:
        """Means and standard deviations."""
        return Moments(self.loc.detach(), self.log_scale.detach().exp())


class Scale(NamedTuple):
    """Normal law of the scales of all groups, or of their logarithms.

    Attributes:
        loc: Means, with the weight's rank.
        variance: Variances, likewise.
        logarithmic: Whether it is the law of the logarithms.
    """

    loc: Tensor
    variance: Tensor
    logarithmic: bool = False

    def draw(self, points: int) -> Tensor:
        """Scales for every data point, `[points, groups]`."""
        noise = torch.randn(points, self.loc.numel(), device=self.loc.device)
        drawn = self.loc.flatten() + self.variance.sqrt().flatten() * noise
        return drawn.exp() if self.logarithmic else drawn

    def typical(self) -> tuple[Tensor, Tensor]:
        """Means (medians of log-normal scales) and variances."""
        if not self.logarithmic:
            return self.loc, self.variance
        return self.loc.exp(), (2.0 * self.loc + self.variance).exp() * self.variance.expm1()


class Weight(nn.Module):
    """The posterior of one weight: normal values, times one scale a group where there are groups.

    Args:
        prior: The weight's prior.
        start: The weight's start value.
    """

    def __init__(self, prior: SparsePrior, start: Tensor) -> None:
        super().__init__()
        self.prior = prior
        values = prior.start("w", start)
        self.values = nn.ModuleDict({name: Normal(v) for name, v in values.items()})

    def value(self, name: str) -> Normal:
        """Posterior of a sample site of the prior."""
        found = self.values[name]
        assert isinstance(found, Normal)
        return found

    @property
    def raw(self) -> Normal:
        """The weight in units of its group's scale."""
        return self.value("w_raw")

    def scale(self) -> Scale | None:
        """Scales of the groups; None where there are none."""
        raise NotImplementedError

    def kl(self) -> Tensor:
        """KL(posterior || prior) in nats, up to a constant where the prior is improper."""
        raise NotImplementedError

    @torch.no_grad()
    def moments(self) -> Moments:
        """The weight's means and standard deviations."""
        scale, inner = self.scale(), self.raw.variance
        if scale is None:
            return self.raw.moments()
        size, spread = scale.typical()
        variance = (size.square() + spread) * inner + spread * self.raw.loc.square()
        return Moments(self.raw.loc * size, variance.sqrt())

    @torch.no_grad()
    def survivors(self) -> Tensor:
        """Which weights stay, by the rule of the prior."""
        kept = self.prior.survivors("w", {name: self.value(name).moments() for name in self.values})
        assert kept is not None
        return kept


class LogUniformWeight(Weight):
    """Sparse variational dropout: no groups."""

    @property
    def raw(self) -> Normal:
        """See `Weight.raw`."""
        return self.value("w")

    def scale(self) -> None:
        """See `Weight.scale`."""
        return

    def kl(self) -> Tensor:
        """See `Weight.kl`."""
        return log_uniform_kl(self.raw)


class JeffreysWeight(Weight):
    """BC-GNJ: normal scales."""

    def scale(self) -> Scale:
        """See `Weight.scale`."""
        z = self.value("w_scale")
        return Scale(z.loc, z.variance)

    def kl(self) -> Tensor:
        """See `Weight.kl`."""
        return standard_kl(self.raw) + log_uniform_kl(self.value("w_scale"))


class HorseshoeWeight(Weight):
    """BC-GHS: log-normal scales, each of four factors.

    Args:
        prior: The weight's prior.
        start: The weight's start value.
    """

    factors = ("global_a", "global_b", "local_a", "local_b")

    def __init__(self, prior: SparsePrior, start: Tensor) -> None:
        super().__init__(prior, start)
        with torch.no_grad():
            for name in self.factors:  # the laws of these are those of their logarithms
                self.value(f"w_{name}").loc.log_()

    def scale(self) -> Scale:
        """See `Weight.scale`: half the sum of four normal logarithms."""
        parts = [self.value(f"w_{name}") for name in self.factors]
        loc = sum((part.loc for part in parts[1:]), parts[0].loc)
        variance = sum((part.variance for part in parts[1:]), parts[0].variance)
        return Scale(0.5 * loc, 0.25 * variance, logarithmic=True)

    def kl(self) -> Tensor:
        """See `Weight.kl`."""
        assert isinstance(self.prior, GroupHorseshoe)
        return (
            standard_kl(self.raw)
            + gamma_kl(self.value("w_global_a"), self.prior.global_scale**-2)
            + inverse_gamma_kl(self.value("w_global_b"))
            + gamma_kl(self.value("w_local_a"), 1.0)
            + inverse_gamma_kl(self.value("w_local_b"))
        )


def make_weight(prior: SparsePrior, start: Tensor) -> Weight:
    """The posterior that belongs to a prior."""
    kinds: dict[type, type[Weight]] = {
        LogUniform: LogUniformWeight,
        GroupNormalJeffreys: JeffreysWeight,
        GroupHorseshoe: HorseshoeWeight,
    }
    return kinds[type(prior)](prior, start)


def standard_kl(q: Normal) -> Tensor:
    """KL(q || Normal(0, 1))."""
    return (0.5 * (q.variance + q.loc.square() - 1.0) - q.log_scale).sum()


def log_uniform_kl(q: Normal) -> Tensor:
    """KL(q || log-uniform) up to a constant, by the approximation of Molchanov and others."""
    rate = 2.0 * (q.log_scale - (q.loc.abs() + 1e-8).log())
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    return (k1 + 0.5 * F.softplus(-rate) - k1 * (k2 + k3 * rate).sigmoid()).sum()


def gamma_kl(q: Normal, rate: float) -> Tensor:
    """KL of a log-normal law from Gamma(1/2, rate); `q` is the law of the logarithm."""
    constant = q.loc.numel() * (0.5 * log(rate) - lgamma(0.5))
    expected = constant - 0.5 * q.loc.sum() - rate * (q.loc + 0.5 * q.variance).exp().sum()
    return -expected - q.entropy() - q.loc.sum()


def inverse_gamma_kl(q: Normal) -> Tensor:
    """KL of a log-normal law from InverseGamma(1/2, 1); `q` is the law of the logarithm."""
    constant = -q.loc.numel() * lgamma(0.5)
    expected = constant - 1.5 * q.loc.sum() - (0.5 * q.variance - q.loc).exp().sum()
    return -expected - q.entropy() - q.loc.sum()
