"""Variational factors of one weight: what the Turbo engine fits and stock SVI can fit too.

Both are small Pyro guides over the sample sites of one prior, with plain `nn.Parameter`s created
at once:

    NormalFactor       q(w_n) = Normal(loc_n, scale_n^2)
    ThreeLayerFactor   q(w_n) q(rho_n | s_n) q(s_n)
                       q(rho_n | s_n = i) = Gamma(a_i + 1/2, rate b_i + E[w_n^2] / 2)
    GateFactor         q(z_j) = Bernoulli(sigmoid(log_odds_j))
"""

from __future__ import annotations

from dataclasses import replace
from math import log, pi

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_turbovbi._pyro import local_param
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.priors.base import WeightSite, fan_in, start_value
from pyro_turbovbi.priors.normal import Normal
from pyro_turbovbi.priors.three_layer import Components, ThreeLayer, closed_component
from pyro_turbovbi.priors.unit_gates import Gates

#: Start of the posterior scales, in units of 1 / sqrt(fan-in).
INIT_SCALE = 0.3


def normal_entropy(log_scale: Tensor) -> Tensor:
    """Entropy of independent normal laws, sum_n (1/2) ln(2 pi e scale_n^2), in nats; scalar.

    Args:
        log_scale: Logarithms of their standard deviations, any shape.
    """
    return log_scale.sum() + 0.5 * log_scale.numel() * (1.0 + log(2 * pi))


class NormalFactor(nn.Module):
    """q(w) = Normal(loc, scale^2), element by element.

    Args:
        site: The weight site. Its start value becomes `loc`.
        init_scale: Start of the standard deviation, in units of 1 / sqrt(fan-in).

    Attributes:
        loc: Posterior means, the weight's shape.
        log_scale: Logarithms of the posterior standard deviations, the weight's shape.
    """

    def __init__(self, site: WeightSite, init_scale: float) -> None:
        super().__init__()
        self.name = site.name
        loc = start_value(site)
        log_scale = torch.full_like(loc, init_scale * fan_in(site.shape) ** -0.5).log_()
        self.loc = nn.Parameter(loc)
        self.log_scale = nn.Parameter(log_scale)

    @property
    def scale(self) -> Tensor:
        """Posterior standard deviations, the weight's shape."""
        return self.log_scale.exp()

    def second_moment(self) -> Tensor:
        """M = E[w^2] = loc^2 + scale^2, the weight's shape."""
        return self.loc.square() + (2.0 * self.log_scale).exp()

    def entropy(self) -> Tensor:
        """H(q(w)) = sum_n (1/2) ln(2 pi e scale_n^2), in nats; scalar."""
        return normal_entropy(self.log_scale)

    def forward(self, opened: Tensor | None = None) -> Tensor:
        """Emit the guide's sample site of the weight; return the weight.

        Args:
            opened: Zeros and ones of the weight's shape: which weights are behind open gates.
        """
        loc = local_param(f"{self.name}.loc", self.loc)
        log_scale = local_param(f"{self.name}.log_scale", self.log_scale)
        weight = dist.Normal(loc, log_scale.exp()).to_event(loc.dim())
        return pyro.sample(self.name, weight)


class ThreeLayerFactor(NormalFactor):
    """q(w) q(rho | s) q(s) of the three-layer prior, with the optimal q(rho | s) filled in.

    Attributes:
        components: The prior's two Gamma components (the engine anneals them).
        support_log_odds: logit q(s = 1), the weight's shape. The Turbo engine sets it by message
            passing; stock SVI trains it by gradients.
    """

    def __init__(self, site: WeightSite, init_scale: float) -> None:
        super().__init__(site, init_scale)
        prior = site.prior
        assert isinstance(prior, ThreeLayer)
        self.components: Components = prior.components(site.shape)
        log_odds = torch.full_like(
            self.loc, float(prior.support_distribution(site.shape).prior_log_odds)
        )
        self.support_log_odds = nn.Parameter(log_odds)

    def forward(self, opened: Tensor | None = None) -> Tensor:
        """Emit the guide's three sample sites; return the weight.

        Args:
            opened: Zeros and ones of the weight's shape: which weights are behind open gates; None:
                all of them.
        """
        log_odds = local_param(f"{self.name}.support_log_odds", self.support_log_odds)
        dims = log_odds.dim()
        support = pyro.sample(
            f"{self.name}_support", dist.Bernoulli(logits=log_odds).to_event(dims)
        )
        (a1, b1), (a0, b0) = self.components
        concentration = a0 + (a1 - a0) * support
        rate = torch.where(support > 0.5, support.new_tensor(b1), support.new_tensor(b0))
        if opened is not None:
            closed = closed_component(self.components)
            concentration = torch.where(opened > 0.5, concentration, closed.concentration)
            rate = torch.where(opened > 0.5, rate, closed.rate)
        precision = dist.Gamma(concentration + 0.5, rate + 0.5 * self.second_moment())
        pyro.sample(f"{self.name}_precision", precision.to_event(dims))
        return super().forward()


class GateFactor(nn.Module):
    """q(z) of a group's gates: independent, each open with its own probability.

    Args:
        gates: The gates.
        like: Tensor that gives the device and dtype.

    Attributes:
        log_odds: logit q(z = 1), `[units]`.
    """

    def __init__(self, gates: Gates, like: Tensor) -> None:
        super().__init__()
        self.gates = gates
        prior = gates.distribution().prior_log_odds.item()
        self.log_odds = nn.Parameter(like.new_full((gates.size,), prior))

    def forward(self) -> Gates:
        """Emit the guide's sample site of the gates; return them with their values."""
        log_odds = local_param(f"{self.gates.name}.gate_log_odds", self.log_odds)
        opened = pyro.sample(self.gates.site, dist.Bernoulli(logits=log_odds).to_event(1))
        return replace(self.gates, open=opened)


def make_factor(site: WeightSite, init_scale: float) -> NormalFactor:
    """The variational factor that belongs to a site's prior.

    Raises:
        UnsupportedError: if the prior is not normal given its precision; the message names
            alternatives.
    """
    if isinstance(site.prior, ThreeLayer) and not site.prior.collapse:
        return ThreeLayerFactor(site, init_scale)
    if isinstance(site.prior, Normal):
        return NormalFactor(site, init_scale)
    if isinstance(site.prior, ThreeLayer):
        raise UnsupportedError(
            f"Turbo-VBI passes messages over the supports of weight {site.name!r}, which its prior "
            "has summed out",
            given=site.prior,
            accepted="the same prior with collapse=False, priors.Normal(), or an engine for "
            "collapsed priors: engines.SVI(), engines.NUTS(), engines.MAP(); engines.Turbo() "
            "needs collapse=False",
        )
    raise UnsupportedError(
        f"Turbo-VBI cannot handle the prior of weight {site.name!r}",
        given=site.prior,
        accepted="priors.ThreeLayer or priors.Normal, or another engine: engines.SVI(), "
        "engines.MAP()",
    )
