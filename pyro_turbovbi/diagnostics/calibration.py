"""How good and how honest predictions are: error, RMSE, proper scores, calibration."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pyro_turbovbi.checks import check_targets
from pyro_turbovbi.diagnostics.protocols import PredictionLike
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    UnsupportedError,
)


class Reliability(NamedTuple):
    """Confidence against accuracy, bin by bin: `bins` bins of equal width over [0, 1].

    Attributes:
        confidence: Mean probability of the most probable class in each bin; NaN in empty ones.
        accuracy: Fraction of its points whose most probable class is their label; NaN in empty
            ones.
        counts: Points in each bin.
    """

    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]
    counts: Int[Tensor, " bins"]

    @property
    def calibration_error(self) -> float:
        """Mean over points of |accuracy - confidence| of their bin, in [0, 1]."""
        gaps = (self.accuracy - self.confidence).abs().nan_to_num()
        return float((gaps * self.counts).sum() / self.counts.sum())


def error_rate(probs: Float[Tensor, "points classes"], labels: Int[Tensor, " labels"]) -> float:
    """Fraction of points whose most probable class is not their label.

    Args:
        probs: Class probabilities, or anything that grows with them such as logits,
            `[points, classes]`.
        labels: True classes `[points]`.

    Returns:
        The error in [0, 1].

    Raises:
        InvalidDataError: If there is no point.
        ShapeError: If the lengths differ.
    """
    _check_lengths(probs, labels)
    return (probs.argmax(dim=1) != labels).double().mean().item()


def root_mean_square_error(
    mean: Float[Tensor, "*shape"], y: Float[Tensor, "*other_shape"]
) -> float:
    """Root of the mean squared difference over all points and targets, in units of the target.

    Args:
        mean: Predicted means `[points, ...]`.
        y: Targets of the same shape.

    Raises:
        InvalidDataError: If there is no point.
        ShapeError: If the shapes differ.
    """
    if mean.shape != y.shape:
        raise ShapeError(
            "predictions and targets differ in shape",
            given=f"{tuple(mean.shape)} and {tuple(y.shape)}",
            accepted="equal shapes",
        )
    _check_lengths(mean, y)
    return (mean.double() - y.double()).square().mean().sqrt().item()


def negative_log_likelihood(log_prob: Float[Tensor, " points"]) -> float:
    """Mean negative log predictive density per point, in nats.

    Args:
        log_prob: `ln p(y | x, data)` of every point, `[points]`.

    Raises:
        InvalidDataError: If there is no point.
    """
    _check_lengths(log_prob, log_prob)
    return -log_prob.double().mean().item()


def brier_score(probs: Float[Tensor, "points classes"], labels: Int[Tensor, " labels"]) -> float:
    """Mean squared distance between the class probabilities and the true class.

    A proper score, like the negative log-likelihood, but bounded: sum_c (p_c - [y = c])^2, in
    [0, 2] (G. W. Brier, 1950; half of it is the score of two classes that is also in use).

    Args:
        probs: Class probabilities `[points, classes]`.
        labels: True classes `[points]`.

    Raises:
        InvalidDataError: If there is no point.
        ShapeError: If the lengths differ.
    """
    _check_lengths(probs, labels)
    probs = probs.double()
    true = probs.gather(1, labels.long()[:, None]).squeeze(1)
    return (probs.square().sum(1) - 2.0 * true + 1.0).mean().item()


def reliability(
    probs: Float[Tensor, "points classes"], labels: Int[Tensor, " labels"], bins: int = 15
) -> Reliability:
    """Sorts points into bins `(i / bins, (i + 1) / bins]` by their confidence.

    Args:
        probs: Class probabilities `[points, classes]`; the largest is a point's confidence.
        labels: True classes `[points]`.
        bins: Number of bins.

    Returns:
        What a reliability diagram shows.

    Raises:
        InvalidArgumentError: If `bins` is not positive.
        InvalidDataError: If there is no point.
        ShapeError: If the lengths differ.
    """
    if bins < 1:
        raise InvalidArgumentError("too few bins", given=bins, accepted="at least 1")
    _check_lengths(probs, labels)
    confidence, predicted = probs.double().max(dim=1)
    inner_edges = torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64, device=probs.device)[1:-1]
    bin_of = torch.bucketize(confidence, inner_edges)
    counts = torch.bincount(bin_of, minlength=bins)

    def mean(values: Tensor) -> Tensor:
        sums = torch.zeros(bins, dtype=torch.float64, device=probs.device)
        return sums.index_add(0, bin_of, values) / counts

    return Reliability(mean(confidence), mean((predicted == labels).double()), counts)


def expected_calibration_error(
    probs: Float[Tensor, "points classes"], labels: Int[Tensor, " labels"], bins: int = 15
) -> float:
    """Expected calibration error of the top class with bins of equal width.

    The mean over points of the absolute difference between accuracy and mean confidence of the
    point's bin, see `reliability` (Guo et al., "On calibration of modern neural networks", 2017,
    equation 3).

    Args:
        probs: Class probabilities `[points, classes]`.
        labels: True classes `[points]`.
        bins: Number of bins.

    Returns:
        The error in [0, 1].

    Raises:
        InvalidArgumentError: If `bins` is not positive.
        InvalidDataError: If there is no point.
        ShapeError: If the lengths differ.
    """
    return reliability(probs, labels, bins).calibration_error


@torch.no_grad()
def probability_integral_transform(prediction: PredictionLike, y: Tensor) -> Tensor:
    """Where each target falls in its predictive distribution: P(target <= y | x, data).

    The predictive distribution is the mixture over posterior draws, and so is its distribution
    function, `mean_s F(y | x, w_s)`. If the predictions are calibrated the values are uniform; a
    heap at 0 and 1 means too narrow, in the middle too wide predictions (A. P. Dawid, 1984).

    Args:
        prediction: A posterior predictive of a regression.
        y: Targets `[points, ...]`.

    Returns:
        Values in [0, 1], `[points, ...]`: one for every target.

    Raises:
        UnsupportedError: If it is no regression: the values of discrete targets are not uniform.
        InvalidDataError, ShapeError: If the targets do not fit the likelihood and the outputs.
    """
    likelihood = prediction.likelihood
    if likelihood.kind != "regression":
        raise UnsupportedError(
            "the probability integral transform needs continuous targets",
            given=f"{type(likelihood).__name__}, {likelihood.kind}",
            accepted="a regression; for classes, reliability",
        )
    outputs = prediction.outputs
    y = y.to(outputs.device)
    check_targets(likelihood, y, outputs[0])
    target = likelihood.prepare(y, outputs[0])
    # Event dimensions only group the targets: each has a distribution function of its own.
    values = [likelihood.distribution(output).base_dist.cdf(target) for output in outputs]
    return torch.stack(values).mean(0)


def _check_lengths(predictions: Tensor, targets: Tensor) -> None:
    if len(predictions) != len(targets):
        raise ShapeError(
            "predictions and targets differ in length",
            given=f"{len(predictions)} and {len(targets)}",
            accepted="equal lengths",
        )
    if len(targets) == 0:
        raise InvalidDataError("there is no point to evaluate", accepted="at least one")
