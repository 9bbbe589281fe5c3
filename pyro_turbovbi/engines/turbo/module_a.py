"""Module A: closed-form variational updates under a factorised support prior.

Both forms take m = E[w^2] per element and give the log-likelihood ratio L that goes to Module B;
with the logit(pi) that comes back, q(s_n = 1) = sigmoid(logit(pi_n) + L_n), and E[rho] is the
precision under which q(w) is trained.

    structured  q(rho | s) q(s)   rho integrated out: L = ln Z_1(m) - ln Z_0(m)      (default)
    mean field  q(rho) q(s)       the published factorisation
"""

from __future__ import annotations

from math import log, pi
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.kernels.evidence import (
    expected_precision,
    log_evidence_constant,
    log_prior_evidence,
)
from pyro_turbovbi.priors.three_layer import Components

Weightlike = Float[Tensor, "*shape"]


class ModuleA(NamedTuple):
    """Evidence of one closed-form update.

    Attributes:
        llr: L_n, log-likelihood ratio of s_n = 1 against s_n = 0.
        base: Log-evidence under s = 0, summed over elements (what `llr` counts from); scalar, in
            nats.
        precision: E[rho_n] where it does not depend on q(s) any more (mean field); None where it
            does (structured).
    """

    llr: Tensor
    base: Tensor
    precision: Tensor | None = None


def structured(second_moment: Weightlike, components: Components) -> ModuleA:
    """Update with q(rho | s) q(s): rho is integrated out exactly, L = ln Z_1(m) - ln Z_0(m).

    Args:
        second_moment: m = E[w^2].
        components: The two Gamma components.
    """
    (a1, b1), (a0, b0) = components
    inactive = torch.add(b0, second_moment, alpha=0.5).log_().mul_(-(a0 + 0.5))
    constant = log_evidence_constant(a0, b0)
    base = inactive.sum() + constant * inactive.numel()
    llr = torch.add(b1, second_moment, alpha=0.5).log_().mul_(-(a1 + 0.5)).sub_(inactive)
    return ModuleA(llr.add_(log_evidence_constant(a1, b1) - constant), base)


def mixed_precision(
    second_moment: Weightlike,
    probs: Weightlike,
    components: Components,
    least: Weightlike | None = None,
) -> Weightlike:
    """E[rho] = sum_i q(s = i) (a_i + 1/2) / (b_i + m / 2), of the structured form.

    Args:
        second_moment: m = E[w^2].
        probs: q(s = 1).
        components: The two Gamma components.
        least: Where model reduction has decided, the least E[rho] of the inactive state.
    """
    active = expected_precision(second_moment, *components.active)
    inactive = expected_precision(second_moment, *components.inactive)
    if least is not None:
        inactive = torch.maximum(inactive, least)
    return torch.lerp(inactive, active, probs)


def mean_field(second_moment: Weightlike, probs: Weightlike, components: Components) -> ModuleA:
    """Update with q(rho) q(s): q(rho) given the present q(s), and what it says about s.

    Args:
        second_moment: m = E[w^2].
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
    # ELBO terms that do not involve s: E[ln p(w | rho)], the s = 0 part of E[ln p(rho | s)],
    # entropy of q(rho).
    likelihood = 0.5 * (log_precision - log(2 * pi) - second_moment * precision)
    entropy = torch.distributions.Gamma(concentration, rate).entropy()
    return ModuleA(llr, (likelihood + inactive + entropy).sum(), precision)
