"""Inference under an independent support prior, element by element."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_EXACT_SOFTPLUS = (
    40.0  # beyond it ln(1 + e^x) equals x in double precision; torch's default of 20 is off by 2e-9
)


def bernoulli_log_evidence(
    llr: Float[Tensor, "*shape"], prior_log_odds: Float[Tensor, "*#shape"] | float
) -> Float[Tensor, "*shape"]:
    """Log-evidence `ln(1 - d + d exp(llr))` of single elements with prior probability `d`.

    Args:
        llr: Log-likelihood ratios in nats, any shape.
        prior_log_odds: `logit(d)`, a number or a tensor that broadcasts against `llr`.

    Returns:
        One log-evidence in nats per element, differentiable, finite for every finite input.
    """
    prior = torch.as_tensor(prior_log_odds, dtype=llr.dtype, device=llr.device)
    return _softplus(prior + llr) - _softplus(prior)


def _softplus(x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x, threshold=_EXACT_SOFTPLUS)
