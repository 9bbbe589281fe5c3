"""Evidence of a weight under a Gamma law on its precision.

With m = E[w^2] under q(w) and a component Gamma(a, rate b) on the precision rho, integrating rho
out of exp E_q[ln Normal(w; 0, 1/rho)] Gamma(rho; a, b) gives

    ln Z(m) = a ln b - lnG(a) + lnG(a + 1/2) - (a + 1/2) ln(b + m / 2) - (1/2) ln(2 pi)

Everything is written with logs and scalar log-gammas in double precision: the probability form of
the spike's evidence overflows float32.
"""

from __future__ import annotations

from math import lgamma, log, pi

from jaxtyping import Float
from torch import Tensor


def log_evidence_constant(concentration: float, rate: float) -> float:
    """The part of ln Z(m) that does not depend on m."""
    a, b = concentration, rate
    return a * log(b) - lgamma(a) + lgamma(a + 0.5) - 0.5 * log(2 * pi)


def log_evidence(
    second_moment: Float[Tensor, "*shape"], concentration: float, rate: float
) -> Float[Tensor, "*shape"]:
    """Ln Z(m) of one component.

    Args:
        second_moment: m = E[w^2] >= 0, any shape.
        concentration: a > 0.
        rate: b > 0, in units of 1 / precision.
    """
    varying = (rate + 0.5 * second_moment).log_().mul_(-(concentration + 0.5))
    return varying.add_(log_evidence_constant(concentration, rate))


def expected_precision(
    second_moment: Float[Tensor, "*shape"], concentration: float, rate: float
) -> Float[Tensor, "*shape"]:
    """E[rho | s] = (a + 1/2) / (b + m / 2), mean of the optimal q(rho | s): -2 d ln Z / d m."""
    return (concentration + 0.5) / (rate + 0.5 * second_moment)


def log_prior_evidence(
    log_precision: Float[Tensor, "*shape"],
    precision: Float[Tensor, "*shape"],
    concentration: float,
    rate: float,
) -> Float[Tensor, "*shape"]:
    """E_q[ln Gamma(rho; a, b)], the mean-field evidence of a component.

    Args:
        log_precision: E[ln rho].
        precision: E[rho].
        concentration: a > 0.
        rate: b > 0.
    """
    constant = concentration * log(rate) - lgamma(concentration)
    return constant + (concentration - 1.0) * log_precision - rate * precision
