"""Posterior draws for the diagnostics, and the predictions that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_turbovbi.batches import Data, Inputs, as_tensors, to_device
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError
from pyro_turbovbi.posterior import DiagonalPosterior, Prediction, predict

#: Draws behind estimates that look at tails.
NUM_DRAWS = 1000


def data_on_device(fit: Any, data: Data) -> tuple[Inputs, Tensor]:
    """All inputs and targets, where the fitted net is."""
    x, y = as_tensors(data)
    device = next(fit.bnn.net.parameters()).device
    return to_device(x, device), y.to(device)


def predict_with(fit: Any, weights: Mapping[str, Tensor], x: Inputs) -> Prediction:
    """The prediction under given weights, one draw of outputs `[1, points, ...]`."""
    # No draw is asked for, so that only the mean of this "posterior" matters.
    return predict(fit.bnn, DiagonalPosterior(weights, {}), x, num_samples=0)


def require_draws(fit: Any, diagnostic: str) -> None:
    """Refuse point estimates, all of whose draws are equal.

    Raises:
        UnsupportedError: if the posterior is a point.
    """
    first, second = fit.posterior.draw(), fit.posterior.draw()
    if all(torch.equal(first[name], second[name]) for name in first):
        raise UnsupportedError(
            f"{diagnostic} needs a posterior, the fit is a point",
            given=fit.engine_name,
            accepted="a fit by engines.Turbo() or engines.SVI()",
        )


def require_positive(name: str, value: int) -> None:
    """Refuse counts below 1.

    Raises:
        InvalidArgumentError: if `value` is not positive.
    """
    if value < 1:
        raise InvalidArgumentError(f"{name} is out of range", given=value, accepted="1, 2, ...")
