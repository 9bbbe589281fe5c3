"""Evaluation of a fit on held-out data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_turbovbi.batches import as_tensors
from pyro_turbovbi.diagnostics.calibration import (
    brier_score,
    error_rate,
    expected_calibration_error,
    negative_log_likelihood,
    root_mean_square_error,
)
from pyro_turbovbi.diagnostics.protocols import FitLike, LikelihoodLike, PredictionLike

#: Inputs that a plain network is given at once.
_CHUNK = 1024


@dataclass(frozen=True)
class Metrics:
    """Quality of the posterior predictive distribution on a data set.

    Attributes:
        num_points: Number of points evaluated.
        nll: Mean negative log predictive density per point, in nats.
        error: Fraction of wrong classes; None unless it is a classification.
        rmse: Root mean square error of the predictive mean, in units of the target; None for a
            classification.
        ece: Expected calibration error with 15 bins; None unless it is a classification.
        brier: Brier score in [0, 2]; None unless it is a classification.
    """

    num_points: int
    nll: float
    error: float | None = None
    rmse: float | None = None
    ece: float | None = None
    brier: float | None = None

    @property
    def primary(self) -> tuple[str, float]:
        """Name and value of the error: `("error", fraction)` or `("rmse", value)`."""
        if self.error is not None:
            return "error", self.error
        assert self.rmse is not None, "metrics have either an error or an rmse"
        return "rmse", self.rmse


def evaluate(fit: FitLike, data: Any, num_samples: int = 32) -> Metrics:
    """Evaluates the posterior predictive distribution of a fit.

    Args:
        fit: A fitted model.
        data: `DataLoader`, `Dataset` or pair of tensors.
        num_samples: Posterior draws that the predictive distribution averages over.

    Returns:
        Negative log-likelihood, error and calibration; see `Metrics`.

    Raises:
        InvalidDataError: If the data has no point.
    """
    x, y = as_tensors(data)
    return evaluate_prediction(fit.predict(x, num_samples=num_samples), y)


def evaluate_prediction(prediction: PredictionLike, y: Tensor) -> Metrics:
    """Evaluates a posterior predictive distribution against the targets `[points, ...]`."""
    mean, likelihood = prediction.mean, prediction.likelihood
    y = y.to(mean.device)
    nll = negative_log_likelihood(prediction.log_prob(y))
    name, value = point_error(likelihood, mean, likelihood.prepare(y, prediction.outputs[0]))
    if name == "rmse":
        return Metrics(len(y), nll, rmse=value)
    probs, labels = as_classes(mean, likelihood.prepare(y, prediction.outputs[0]))
    return Metrics(
        len(y),
        nll,
        error=value,
        ece=expected_calibration_error(probs, labels),
        brier=brier_score(probs, labels),
    )


def point_error(likelihood: LikelihoodLike, mean: Tensor, y: Tensor) -> tuple[str, float]:
    """Error of a predictive mean, however it was obtained.

    Args:
        likelihood: Says whether the mean holds class probabilities.
        mean: Predictive mean `[points, ...]`.
        y: Targets as the likelihood's `prepare` returns them.

    Returns:
        `("error", fraction of wrong classes)` or `("rmse", root mean square error)`.
    """
    if likelihood.kind == "classification":
        return "error", error_rate(*as_classes(mean, y))
    return "rmse", root_mean_square_error(mean, y.to(mean.dtype))


def outputs_of(module: nn.Module, x: Tensor) -> Tensor:
    """Outputs of a plain network `[points, ...]`, on its own device, part after part of the inputs.

    Args:
        module: The network.
        x: Its inputs `[points, ...]`.
    """
    device = next((p.device for p in module.parameters()), x.device)
    with torch.no_grad():
        return torch.cat([module(part.to(device)) for part in x.split(_CHUNK)])


def as_classes(mean: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Brings categorical and binary predictions to one form.

    Args:
        mean: Class probabilities `[points, ..., classes]`, or of y = 1 in the shape of `y`.
        y: Labels `[points, ...]`.

    Returns:
        Class probabilities `[all points, classes]` and labels `[all points]`; every further axis of
        the labels counts as more points.
    """
    probs = torch.stack([1 - mean, mean], dim=-1) if mean.shape == y.shape else mean
    return probs.reshape(-1, probs.shape[-1]), y.reshape(-1).long()
