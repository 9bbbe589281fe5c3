"""A guide for the three-layer prior whose supports are summed out in the model.

Under `ThreeLayer(collapse="support")` precisions have the law `CollapsedPrecision` (on a chain: a
hidden Markov model with Gamma emissions), exact and differentiable, and nothing is discrete:

    EnumeratedFactor   q(w_n) q(rho_n | w_n)
                       q(w_n)         = Normal(loc_n, scale_n^2)
                       q(rho_n | w_n) = Gamma(pi a_1 + (1 - pi) a_0 + 1/2,
                                              rate b_1^pi b_0^(1 - pi) + w_n^2 / 2)
                       logit pi       = extrinsic_n + ln Z_1(w_n^2) - ln Z_0(w_n^2)

pi stands for the probability of the slab given w_n and what the rest of the support says about it,
`extrinsic_n`, which is trained. Where it is 0 or 1, q(rho | w) is the exact posterior of a
precision, Gamma(a_i + 1/2, rate b_i + w^2 / 2); in between, the exact one is a mixture of two and
this a single law between them, which is what the ELBO pays for. All gradients are pathwise and
unbiased (of Gamma samples: implicit, M. Figurnov, S. Mohamed, A. Mnih, NeurIPS 2018).

A precision that does not follow its weight (independent log-normal, such as `AutoNormal` makes)
stays in the component where it starts: between spike and slab its density is all but zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_turbovbi._pyro import local_param
from pyro_turbovbi.families.factors import INIT_SCALE, NormalFactor
from pyro_turbovbi.families.site_guide import SiteGuide, three_layer_of
from pyro_turbovbi.kernels.evidence import log_evidence
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.priors.three_layer import ThreeLayer


class EnumeratedFactor(NormalFactor):
    """q(w) q(rho | w) of the three-layer prior with supports summed out.

    Args:
        site: The weight site, under a three-layer prior with ``collapse="support"``.
        init_scale: Start of the standard deviation, in units of 1 / sqrt(fan-in).

    Attributes:
        extrinsic: Log-odds of an active weight before the weight itself is looked at, its shape;
            they start at the prior's.
    """

    def __init__(self, site: WeightSite, init_scale: float) -> None:
        super().__init__(site, init_scale)
        prior = site.prior
        assert isinstance(prior, ThreeLayer)
        self.components = prior.components(site.shape)
        log_odds = float(prior.support_distribution(site.shape).prior_log_odds)
        self.extrinsic = nn.Parameter(torch.full_like(self.loc, log_odds))

    def forward(self, opened: Tensor | None = None) -> Tensor:
        """Emit the guide's two sample sites; return the weight. `opened` is not used."""
        extrinsic = local_param(f"{self.name}.extrinsic", self.extrinsic)
        weight = super().forward()
        pyro.sample(f"{self.name}_precision", self._precision(weight.square(), extrinsic))
        return weight

    def _precision(self, square: Tensor, extrinsic: Tensor) -> Any:
        """q(rho | w) given w^2."""
        (a1, b1), (a0, b0) = self.components
        llr = log_evidence(square, a1, b1) - log_evidence(square, a0, b0)
        slab = (extrinsic + llr).sigmoid()
        concentration = a0 + (a1 - a0) * slab + 0.5
        rate = (log(b0) + (log(b1) - log(b0)) * slab).exp() + 0.5 * square
        law: Any = dist.Gamma(concentration, rate)
        return law.to_event(square.dim())


class EnumeratedGuide(SiteGuide):
    """The guide of a model with three-layer priors that have their supports summed out.

    For stock `pyro.infer.SVI`. Weights under `priors.Normal` get a normal factor. It trains well
    where spike and slab meet at weights that the posterior's scale reaches; under a spike that is a
    thousand times narrower than the slab, as the default one, weights stay where they start, and
    `RelaxedGuide` or Turbo-VBI find more.

    Args:
        sites: Weight sites by name: ``bnn.sites`` of a lifted net, or `discover_weights`.
        init_scale: Start of the posterior standard deviations, in units of 1 / sqrt(fan-in).

    Raises:
        UnsupportedError: if there are no sites, or a site's prior cannot be handled.
    """

    def __init__(self, sites: Mapping[str, WeightSite], *, init_scale: float = INIT_SCALE) -> None:
        super().__init__(sites, _factor, init_scale=init_scale)


def _factor(site: WeightSite, init_scale: float) -> NormalFactor:
    if three_layer_of(site, collapse="support", guide="EnumeratedGuide") is None:
        return NormalFactor(site, init_scale)
    return EnumeratedFactor(site, init_scale)
