from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors
from pyro_turbovbi.diagnostics import (
    error_rate,
    evaluate,
    probability_integral_transform,
    root_mean_square_error,
)
from pyro_turbovbi.report import findings


def test_classifier_against_counting(classifier: ptv.Fit, classes: tuple[Tensor, Tensor]) -> None:
    x, y = classes
    small = nn.Linear(3, 2)
    found = findings.find(classifier, classes, small, num_samples=8, seed=3)
    again = findings.find(classifier, classes, small, num_samples=8, seed=3)
    assert found.metrics == again.metrics
    with torch.no_grad():
        assert found.small_error == error_rate(small(x), y)
    assert found.trivial == pytest.approx(min(float(y.sum()), 60 - float(y.sum())) / 60)
    assert found.only_fit_right is not None
    assert found.only_small_right is not None
    assert found.metrics.error is not None
    assert found.only_fit_right - found.only_small_right == pytest.approx(
        60 * (found.small_error - found.metrics.error)
    )
    assert found.certainty is not None
    assert found.certainty.errors == round(60 * found.metrics.error)
    assert found.reliability is not None
    assert found.reliability.calibration_error == pytest.approx(found.metrics.ece)
    assert found.pit is None
    assert found.classes


def test_without_a_small_network_nothing_is_said_of_it(
    classifier: ptv.Fit, classes: tuple[Tensor, Tensor]
) -> None:
    found = findings.find(classifier, classes, num_samples=2)
    assert (found.small_error, found.only_fit_right, found.only_small_right) == (None, None, None)


def test_regression(regression: ptv.Fit, numbers: tuple[Tensor, Tensor]) -> None:
    x, y = numbers
    small = nn.Linear(3, 1)
    state = torch.get_rng_state()
    found = findings.find(regression, numbers, small, num_samples=8, seed=1)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state is untouched"
    assert found.trivial == pytest.approx(y.std(correction=0).item(), rel=1e-5)
    with torch.no_grad():
        assert found.small_error == pytest.approx(root_mean_square_error(small(x)[:, 0], y))
    torch.manual_seed(1)
    prediction = regression.predict(x, 8)
    assert found.pit is not None
    assert torch.equal(found.pit, probability_integral_transform(prediction, y))
    assert found.metrics.rmse is not None
    assert found.coverage == findings.coverage(found.pit)
    assert not found.classes
    assert evaluate(regression, numbers, 0).rmse is not None


def test_counts_have_errors_alone() -> None:
    data = torch.randn(20, 3), torch.arange(20)
    bnn = ptv.lift(nn.Linear(3, 1), likelihood=likelihoods.Poisson(), prior=priors.Normal(1.0))
    fit = ptv.fit(bnn, data, engine=engines.MAP(), epochs=1, progress=False)
    found = findings.find(fit, data)
    assert found.metrics.rmse is not None
    assert (found.certainty, found.coverage) == (None, None)


def test_coverage_counts_the_middle() -> None:
    pit = torch.tensor([[0.04, 0.06], [0.5, 0.94], [0.951, 1.0]])
    assert findings.coverage(pit) == findings.Coverage(0.9, 0.5, 6)


def test_certainty_against_counting() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.45, 0.55]] * 5)
    labels = torch.tensor([0, 0, 0, 1] * 5)
    found = findings.certainty(probs, labels)
    assert found.confidence == pytest.approx((0.9 + 0.6 + 0.8 + 0.55) / 4)
    assert (found.accuracy, found.errors, found.unsure, found.errors_unsure) == (0.75, 5, 2, 0)
