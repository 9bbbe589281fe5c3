"""Module A: closed-form variational updates under the factorised support prior that Module B hands over.

Both forms take m = E[w^2] and the prior log-odds logit(pi) per element and give q(s), the log-likelihood ratio L that
goes to Module B, and E[rho], the precision under which q(w) is trained.

    structured  q(rho | s) q(s)   rho integrated out: L = ln Z_1(m) - ln Z_0(m)      (default)
    mean field  q(rho) q(s)       the published factorisation
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.kernels.evidence import (
    expected_precision,
    log_evidence,
    log_evidence_constant,
    log_prior_evidence,
)
from pyro_turbovbi.priors.three_layer import Components

Weightlike = Float[Tensor, "*shape"]


class ModuleA(NamedTuple):
    """Result of one closed-form update.

    Attributes:
        llr: L_n, log-likelihood ratio of s_n = 1 against s_n = 0.
        probs: q(s_n = 1).
        precision: E[rho_n].
        base: Sum over elements of the log-evidence under s = 0 (the reference from which `llr` counts); scalar.
    """

    llr: Tensor
    probs: Tensor
    precision: Tensor
    base: Tensor


def structured(second_moment: Weightlike, prior_log_odds: Weightlike, components: Components) -> ModuleA:
    """Update with q(rho | s) q(s): rho is integrated out exactly.

    Args:
        second_moment: m = E[w^2].
        prior_log_odds: logit(pi), the extrinsic message of Module B.
        components: The two Gamma components.
    """
    llr = log_likelihood_ratio(second_moment, components)
    base = log_evidence(second_moment, *components.inactive).sum()
    probs = torch.sigmoid(prior_log_odds + llr)
    return ModuleA(llr, probs, mixed_precision(second_moment, probs, components), base)


def log_likelihood_ratio(second_moment: Weightlike, components: Components) -> Weightlike:
    """L = ln Z_1(m) - ln Z_0(m)."""
    (a1, b1), (a0, b0) = components
    half = 0.5 * second_moment
    llr = (half + b0).log_().mul_(a0 + 0.5).add_((half + b1).log_(), alpha=-(a1 + 0.5))
    return llr.add_(log_evidence_constant(a1, b1) - log_evidence_constant(a0, b0))


def mixed_precision(second_moment: Weightlike, probs: Weightlike, components: Components) -> Weightlike:
    """E[rho] = sum_i q(s = i) (a_i + 1/2) / (b_i + m / 2)."""
    active = expected_precision(second_moment, *components.active)
    inactive = expected_precision(second_moment, *components.inactive)
    return torch.lerp(inactive, active, probs)


def mean_field(
    second_moment: Weightlike, prior_log_odds: Weightlike, probs: Weightlike, components: Components
) -> ModuleA:
    """Update with q(rho) q(s): first q(rho) given the old q(s), then q(s) given the new q(rho).

    Args:
        second_moment: m = E[w^2].
        prior_log_odds: logit(pi), the extrinsic message of Module B.
        probs: The present q(s = 1); the update depends on it.
        components: The two Gamma components.
    """
    (a1, b1), (a0, b0) = components
    concentration = a0 + (a1 - a0) * probs + 0.5
    rate = b0 + (b1 - b0) * probs + 0.5 * second_moment
    precision = concentration / rate
    log_precision = torch.digamma(concentration) - rate.log()
    inactive = log_prior_evidence(log_precision, precision, a0, b0)
    llr = log_prior_evidence(log_precision, precision, a1, b1) - inactive
    # ELBO terms that do not involve s: E[ln p(w | rho)], the s = 0 part of E[ln p(rho | s)], entropy of q(rho).
    likelihood = 0.5 * (log_precision - torch.tensor(2 * torch.pi).log() - second_moment * precision)
    entropy = torch.distributions.Gamma(concentration, rate).entropy()
    base = (likelihood + inactive + entropy).sum()
    return ModuleA(llr, torch.sigmoid(prior_log_odds + llr), precision, base)

