"""How good and how honest predictions are: error, RMSE, log-likelihood, calibration error."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, ShapeError


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


def expected_calibration_error(
    probs: Float[Tensor, "points classes"], labels: Int[Tensor, " labels"], bins: int = 15
) -> float:
    """Expected calibration error of the top class with bins of equal width.

    Points are sorted into bins `(i / bins, (i + 1) / bins]` by the probability of their most
    probable class (its confidence). The result is the mean over points of the absolute difference
    between accuracy and mean confidence of the point's bin (Guo et al., "On calibration of modern
    neural networks", 2017, equation 3).

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
    if bins < 1:
        raise InvalidArgumentError("too few bins", given=bins, accepted="at least 1")
    _check_lengths(probs, labels)
    confidence, predicted = probs.double().max(dim=1)
    excess = confidence - (predicted == labels).double()
    inner_edges = torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64, device=probs.device)[1:-1]
    bin_of = torch.bucketize(confidence, inner_edges)
    # |accuracy - confidence| of a bin times its number of points is the absolute sum over them.
    sums = torch.zeros(bins, dtype=torch.float64, device=probs.device)
    return sums.index_add(0, bin_of, excess).abs().sum().item() / len(labels)


def _check_lengths(predictions: Tensor, targets: Tensor) -> None:
    if len(predictions) != len(targets):
        raise ShapeError(
            "predictions and targets differ in length",
            given=f"{len(predictions)} and {len(targets)}",
            accepted="equal lengths",
        )
    if len(targets) == 0:
        raise InvalidDataError("there is no point to evaluate", accepted="at least one")
