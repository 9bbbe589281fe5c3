"""Supports trained by straight-through gradients instead of score-function ones.

    RelaxedFactor   q(w_n) q(s_n) q(rho_n | s_n, w_n)
                    q(w_n)                  = Normal(loc_n, scale_n^2)
                    q(s_n)                  = Bernoulli, with the gradients of a relaxed Bernoulli
                    q(rho_n | s_n = i, w_n) = Gamma(a_i + 1/2, rate b_i + w_n^2 / 2)

The last one is the exact posterior of a precision given support and weight, and nothing of it is
left to be trained: whatever rho is drawn, ln p(rho | s) + ln p(w | rho) - ln q(rho | s, w) is the
Student-t density ln Z_s(w^2).

What is unbiased, and what is not:

- ELBO estimates are unbiased. Supports are drawn as zeros and ones and all densities are exact, so
  it is the ELBO of the discrete family, not of a relaxation.
- Gradients for `loc` and `scale` are unbiased: the likelihood does not depend on supports, and the
  prior's terms depend on the weights through ln Z_s(w^2) at the hard support.
- Gradients for the log-odds of supports are biased, as all straight-through and relaxed gradients
  are, and here the bias is known. The ELBO's integrand f is multilinear in the supports (the prior
  of a chain or grid is, `SelectedGamma` makes the precisions' laws so) and q(s) is independent, so
  df/ds_n does not contain s_n or its noise, and the expected gradient factorises:

      E[df/ds_n] E[ds_n/dl_n]   instead of the true   E[df/ds_n] p_n (1 - p_n)

  with E[ds_n/dl_n] > 0 the slope of the relaxation at log-odds l_n. So every component has the true
  sign, the gradient is zero exactly where the true one is, and each is off by a factor, at
  temperature 0.5 between 0.85 and pi/2, that tends to 1 with the temperature. Adam hardly notices a
  factor.

References: C. J. Maddison, A. Mnih, Y. W. Teh, "The Concrete distribution", ICLR 2017; E. Jang,
S. Gu, B. Poole, "Categorical reparameterization with Gumbel-softmax", ICLR 2017; Y. Bengio,
N. Leonard, A. Courville, arXiv 1308.3432, 2013 (straight-through).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_turbovbi._pyro import local_param
from pyro_turbovbi.distributions import (
    IndependentSupport,
    MarkovChainSupport,
    MarkovGridSupport,
    SelectedGamma,
    StraightThroughBernoulli,
)
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families.factors import INIT_SCALE, NormalFactor
from pyro_turbovbi.families.site_guide import SiteGuide, three_layer_of
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.priors.three_layer import ThreeLayer

#: Temperature of the relaxation.
TEMPERATURE = 0.5
_MULTILINEAR = (IndependentSupport, MarkovChainSupport, MarkovGridSupport)


class RelaxedFactor(NormalFactor):
    """q(w) q(s) q(rho | s, w) of the three-layer prior with pathwise gradients for all of it.

    Args:
        site: The weight site, under a three-layer prior with supports as sites.
        init_scale: Start of the standard deviation, in units of 1 / sqrt(fan-in).
        temperature: Temperature of the relaxation, > 0.

    Attributes:
        support_log_odds: logit q(s = 1), the weight's shape; they start at the prior's.

    Raises:
        UnsupportedError: if the log-probability of the support is not multilinear.
    """

    def __init__(
        self, site: WeightSite, init_scale: float, *, temperature: float = TEMPERATURE
    ) -> None:
        super().__init__(site, init_scale)
        prior = site.prior
        assert isinstance(prior, ThreeLayer)
        support = prior.support_distribution(site.shape)
        if not isinstance(support, _MULTILINEAR):
            raise UnsupportedError(
                f"the support of weight {site.name!r} has no multilinear log-probability, so that "
                "straight-through gradients mean nothing",
                given=prior.support,
                accepted="supports.Independent(), supports.Chain() or supports.Grid(); "
                "families.TurboGuide, or families.EnumeratedGuide on trees",
            )
        self.temperature = temperature
        self.components = prior.components(site.shape)
        log_odds = torch.full_like(self.loc, float(support.prior_log_odds))
        self.support_log_odds = nn.Parameter(log_odds)

    def forward(self, opened: Tensor | None = None) -> Tensor:
        """Emit the guide's three sample sites; return the weight. `opened` is not used."""
        log_odds = local_param(f"{self.name}.support_log_odds", self.support_log_odds)
        dims = log_odds.dim()
        law: Any = StraightThroughBernoulli(self.temperature, log_odds)
        support = pyro.sample(f"{self.name}_support", law.to_event(dims))
        weight = super().forward()
        half = 0.5 * weight.square()
        (a1, b1), (a0, b0) = self.components
        precision: Any = SelectedGamma(support, (a1 + 0.5, b1 + half), (a0 + 0.5, b0 + half))
        pyro.sample(f"{self.name}_precision", precision.to_event(dims))
        return weight


class RelaxedGuide(SiteGuide):
    """The guide of a model with three-layer priors, with straight-through gradients for supports.

    For stock `pyro.infer.SVI`: there are no score-function terms in any Pyro ELBO. Weights under
    `priors.Normal` get a normal factor. See the module's text for what is biased.

    Args:
        sites: Weight sites by name: ``bnn.sites`` of a lifted net, or `discover_weights`.
        temperature: Temperature of the relaxation, > 0. Lower: less bias, more variance.
        init_scale: Start of the posterior standard deviations, in units of 1 / sqrt(fan-in).

    Raises:
        InvalidArgumentError: if the temperature is not positive (when the guide is run).
        UnsupportedError: if there are no sites, or a site's prior cannot be handled.
    """

    def __init__(
        self,
        sites: Mapping[str, WeightSite],
        *,
        temperature: float = TEMPERATURE,
        init_scale: float = INIT_SCALE,
    ) -> None:
        super().__init__(sites, partial(_factor, temperature=temperature), init_scale=init_scale)


def _factor(site: WeightSite, init_scale: float, *, temperature: float) -> NormalFactor:
    if three_layer_of(site, collapse=False, guide="RelaxedGuide") is None:
        return NormalFactor(site, init_scale)
    return RelaxedFactor(site, init_scale, temperature=temperature)
