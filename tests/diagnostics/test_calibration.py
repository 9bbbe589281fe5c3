from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.diagnostics.calibration import (
    brier_score,
    error_rate,
    expected_calibration_error,
    negative_log_likelihood,
    probability_integral_transform,
    reliability,
    root_mean_square_error,
)
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    UnsupportedError,
)
from pyro_turbovbi.likelihoods import Categorical, Gaussian
from pyro_turbovbi.posterior import Prediction


def _case(points: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probs = (3 * torch.randn(points, classes, generator=generator, dtype=torch.float64)).softmax(1)
    return probs, torch.multinomial(probs, 1, generator=generator).squeeze(1)


def _binned_calibration_error(probs: Tensor, labels: Tensor, bins: int) -> float:
    """The definition, point by point: bins (i / bins, (i + 1) / bins]."""
    members: dict[int, list[tuple[float, bool]]] = {}
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        members.setdefault(math.ceil(confidence * bins) - 1, []).append(
            (confidence, row.index(confidence) == label)
        )
    total = 0.0
    for points in members.values():
        accuracy = sum(correct for _, correct in points) / len(points)
        confidence = sum(value for value, _ in points) / len(points)
        total += len(points) / len(labels) * abs(accuracy - confidence)
    return total


def test_error_rate_counts_wrong_classes() -> None:
    probs = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.9, 0.1]])
    assert error_rate(probs, torch.tensor([0, 1, 1, 1])) == 0.5


@pytest.mark.parametrize("bins", [1, 2, 7, 15])
@pytest.mark.parametrize(("points", "classes"), [(1, 2), (50, 2), (400, 10)])
def test_calibration_error_equals_its_definition(points: int, classes: int, bins: int) -> None:
    probs, labels = _case(points, classes, seed=bins)
    expected = _binned_calibration_error(probs, labels, bins)
    assert expected_calibration_error(probs, labels, bins) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("confidence", [0.6, 0.75, 1.0])
@pytest.mark.parametrize("correct", [0, 3, 10])
def test_calibration_error_with_one_confidence_is_its_distance_to_the_accuracy(
    confidence: float, correct: int
) -> None:
    probs = torch.tensor([[confidence, 1 - confidence]], dtype=torch.float64).repeat(10, 1)
    labels = (torch.arange(10) >= correct).long()
    expected = abs(confidence - correct / 10)
    assert expected_calibration_error(probs, labels) == pytest.approx(expected, abs=1e-12)


def test_an_edge_belongs_to_the_lower_bin() -> None:
    probs = torch.tensor([[0.75, 0.25], [0.7, 0.3]], dtype=torch.float64)
    # In one bin the two errors cancel partly: |(1 + 0) / 2 - 0.725|; in two they would add.
    value = expected_calibration_error(probs, torch.tensor([0, 1]), bins=4)
    assert value == pytest.approx(0.225, abs=1e-12)


def test_perfectly_calibrated_predictions_have_an_error_near_zero() -> None:
    probs, labels = _case(200_000, 4)
    # Standard error of the mean |accuracy - confidence| over 15 bins of about 13,000 points.
    assert expected_calibration_error(probs, labels) < 5 * 0.5 / (200_000 / 15) ** 0.5


def test_negative_log_likelihood_is_the_mean_in_nats() -> None:
    log_prob = torch.tensor([0.25, 0.5, 0.125], dtype=torch.float64).log()
    assert negative_log_likelihood(log_prob) == pytest.approx(2 * math.log(2.0), abs=1e-12)


def test_negative_log_likelihood_of_a_normal_is_its_entropy_on_average() -> None:
    normal = torch.distributions.Normal(1.0, torch.tensor(2.0, dtype=torch.float64))
    torch.manual_seed(0)
    value = negative_log_likelihood(normal.log_prob(normal.sample((100_000,))))
    # The log-density of a normal has variance 1/2.
    assert abs(value - normal.entropy().item()) < 5 * (0.5 / 100_000) ** 0.5


def test_root_mean_square_error() -> None:
    mean, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [4.0], [2.0]])
    assert root_mean_square_error(mean, y) == pytest.approx((5 / 3) ** 0.5)


def test_single_precision_sums_are_exact() -> None:
    ones = torch.full((3_000_000,), 0.1)
    assert negative_log_likelihood(ones) == pytest.approx(-float(ones[0]), rel=1e-12)


@pytest.mark.parametrize("metric", [error_rate, brier_score, expected_calibration_error])
def test_lengths_that_differ_and_empty_sets_are_refused(
    metric: Callable[[Tensor, Tensor], float],
) -> None:
    with pytest.raises(ShapeError, match="given: 2 and 3"):
        metric(torch.full((2, 2), 0.5), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InvalidDataError, match="no point to evaluate"):
        metric(torch.empty(0, 2), torch.zeros(0, dtype=torch.int64))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"given: \(2, 1\) and \(2,\)"):
        root_mean_square_error(torch.zeros(2, 1), torch.zeros(2))


def test_too_few_bins_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="given: 0; accepted: at least 1"):
        expected_calibration_error(*_case(3, 2), bins=0)


def test_the_brier_score_is_the_squared_distance_to_the_label() -> None:
    probs, labels = _case(50, 4)
    true = torch.nn.functional.one_hot(labels, 4)
    expected = (probs - true).square().sum(1).mean().item()
    assert brier_score(probs, labels) == pytest.approx(expected, abs=1e-12)
    assert brier_score(torch.eye(3), torch.arange(3)) == 0.0
    assert brier_score(torch.eye(2), torch.tensor([1, 0])) == 2.0


def test_the_brier_score_of_two_classes_is_twice_scikit_learns() -> None:
    from sklearn.metrics import brier_score_loss

    probs, labels = _case(80, 2)
    half = brier_score_loss(labels.numpy(), probs[:, 1].numpy())
    assert brier_score(probs, labels) == pytest.approx(2 * half, abs=1e-12)


def test_reliability_agrees_with_scikit_learns_curve() -> None:
    from sklearn.calibration import calibration_curve

    probs, labels = _case(500, 3)
    confidence, predicted = probs.max(1)
    accuracy, mean = calibration_curve(
        (predicted == labels).numpy(), confidence.numpy(), n_bins=10, strategy="uniform"
    )
    curve = reliability(probs, labels, bins=10)
    kept = curve.counts > 0
    assert curve.accuracy[kept].numpy() == pytest.approx(accuracy)
    assert curve.confidence[kept].numpy() == pytest.approx(mean)
    assert int(curve.counts.sum()) == 500
    assert bool(curve.accuracy[~kept].isnan().all())


def test_the_pit_of_one_draw_is_the_normal_distribution_function() -> None:
    outputs, y = torch.randn(1, 9, 2), torch.randn(9, 2)
    values = probability_integral_transform(Prediction(outputs, Gaussian(0.5)), y)
    law = torch.distributions.Normal(outputs[0], 0.5)
    assert torch.allclose(values, law.cdf(y))


def test_the_pit_is_that_of_the_mixture_over_draws() -> None:
    outputs = torch.tensor([[[-10.0]], [[10.0]]])
    prediction = Prediction(outputs, Gaussian(1.0))
    values = probability_integral_transform(prediction, torch.zeros(1))
    assert values.shape == (1, 1)
    assert float(values) == pytest.approx(0.5)


def test_the_pit_of_calibrated_predictions_is_uniform() -> None:
    from scipy import stats

    scale = torch.linspace(-1.0, 1.0, 4000)[None]
    output = torch.stack([torch.randn(1, 4000), scale], -1)
    y = torch.distributions.Normal(output[0, :, 0], scale[0].exp()).sample()
    prediction = Prediction(output, Gaussian(heteroscedastic=True))
    values = probability_integral_transform(prediction, y)
    # Fails once in ten thousand seeds; the seed is fixed.
    assert stats.kstest(values.flatten().double().numpy(), "uniform").pvalue > 1e-4


def test_the_pit_of_classes_is_refused() -> None:
    prediction = Prediction(torch.zeros(1, 3, 2), Categorical())
    with pytest.raises(UnsupportedError, match="continuous targets; given: Categorical, classif"):
        probability_integral_transform(prediction, torch.zeros(3).long())
