"""Evaluation of a fit on held-out data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_turbovbi.batches import as_tensors
from pyro_turbovbi.checks import check_targets
from pyro_turbovbi.diagnostics.calibration import (
    brier_score,
    error_rate,
    expected_calibration_error,
    negative_log_likelihood,
    root_mean_square_error,
)
from pyro_turbovbi.diagnostics.protocols import FitLike, LikelihoodLike, PredictionLike
from pyro_turbovbi.likelihoods import Categorical, Likelihood

#: Inputs that a plain network is given at once.
_CHUNK = 1024


@dataclass(frozen=True)
class Metrics:
    """Quality of the posterior predictive distribution on a data set.

    Of soft targets (class probabilities) error, calibration error and Brier score are those of the
    most probable class. Their density under one draw is that of `likelihoods.Categorical`, the
    product over classes of p_c^t_c; one-hot targets give the numbers of their labels.

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
        InvalidDataError: If the data has no point, or a target is outside the likelihood's domain.
        ShapeError: If the targets do not fit the net's outputs.
    """
    x, y = as_tensors(data)
    return evaluate_prediction(fit.predict(x, num_samples=num_samples), y)


def evaluate_prediction(prediction: PredictionLike, y: Tensor) -> Metrics:
    """Evaluates a posterior predictive distribution against the targets `[points, ...]`.

    Raises:
        InvalidDataError: If there is no point, or a target is outside the likelihood's domain.
        ShapeError: If the targets do not fit the outputs.
    """
    mean, likelihood = prediction.mean, prediction.likelihood
    target = observed(likelihood, y, prediction.outputs[0])
    nll = negative_log_likelihood(prediction.log_prob(y))
    name, value = point_error(likelihood, mean, target)
    if name == "rmse":
        return Metrics(len(y), nll, rmse=value)
    probs, labels = as_classes(likelihood, mean, target)
    return Metrics(
        len(y),
        nll,
        error=value,
        ece=expected_calibration_error(probs, labels),
        brier=brier_score(probs, labels),
    )


def observed(likelihood: Likelihood, y: Tensor, output: Tensor) -> Tensor:
    """Targets as a likelihood observes them, on the device of the outputs, once they are checked.

    Args:
        likelihood: What the outputs mean.
        y: Targets `[points, ...]`.
        output: The net's outputs `[points, ...]`.

    Raises:
        InvalidDataError: If a target is outside the likelihood's domain.
        ShapeError: If the targets do not fit the outputs.
    """
    y = y.to(output.device)
    check_targets(likelihood, y, output)
    return likelihood.prepare(y, output)


def point_error(likelihood: LikelihoodLike, mean: Tensor, y: Tensor) -> tuple[str, float]:
    """Error of a predictive mean, however it was obtained.

    Args:
        likelihood: Says whether the mean holds class probabilities.
        mean: Predictive mean `[points, ...]`.
        y: Targets as `observed` returns them.

    Returns:
        `("error", fraction of wrong classes)` or `("rmse", root mean square error)`.
    """
    if likelihood.kind == "classification":
        return "error", error_rate(*as_classes(likelihood, mean, y))
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


def as_classes(likelihood: LikelihoodLike, mean: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Brings categorical and binary predictions to one form.

    Args:
        likelihood: Under `Categorical`, the mean holds the probabilities of all classes; under
            others those of y = 1 if it has the shape of `y`.
        mean: Class probabilities `[points, ..., classes]`, or of y = 1 in the shape of `y`.
        y: Labels `[points, ...]`; under `Categorical` also soft ones `[points, ..., classes]`, of
            which the most probable class counts.

    Returns:
        Class probabilities `[all points, classes]` and labels `[all points]`; every further axis of
        the labels counts as more points.
    """
    probs = mean
    if isinstance(likelihood, Categorical):
        y = y.argmax(-1) if y.is_floating_point() else y
    elif mean.shape == y.shape:
        probs = torch.stack([1 - mean, mean], dim=-1)
    return probs.reshape(-1, probs.shape[-1]), y.reshape(-1).long()
