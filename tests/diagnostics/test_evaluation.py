from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_turbovbi.diagnostics import Metrics, evaluate, expected_calibration_error
from pyro_turbovbi.errors import InvalidDataError, ShapeError
from pyro_turbovbi.likelihoods import Bernoulli, Categorical, Gaussian, Poisson
from tests.diagnostics.fakes import FakeFit


def _inputs(points: int, columns: int) -> torch.Tensor:
    return torch.randn(points, columns, generator=torch.Generator().manual_seed(0))


def test_classification() -> None:
    x = _inputs(200, 3)
    y = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(1))
    metrics = evaluate(FakeFit(nn.Identity()), (x, y), num_samples=2)
    assert metrics.num_points == 200
    assert metrics.error == pytest.approx((x.argmax(1) != y).double().mean().item())
    assert metrics.nll == pytest.approx(nn.functional.cross_entropy(x, y).item(), rel=1e-5)
    assert metrics.ece == pytest.approx(expected_calibration_error(x.softmax(1), y), abs=1e-6)
    true = nn.functional.one_hot(y, 3)
    expected = (x.softmax(1) - true).square().sum(1).mean().item()
    assert metrics.brier == pytest.approx(expected, rel=1e-5)
    assert metrics.rmse is None
    assert metrics.primary == ("error", metrics.error)


def test_the_predictive_density_averages_over_draws_inside_the_logarithm() -> None:
    fit = FakeFit(nn.Identity(), noise=2.0)
    x, y = torch.zeros(5000, 2), torch.zeros(5000, dtype=torch.int64)
    torch.manual_seed(0)
    # By symmetry the averaged probability of either class is 1/2.
    assert evaluate(fit, (x, y), num_samples=200).nll == pytest.approx(math.log(2), abs=5e-3)


def test_a_binary_output_counts_as_two_classes() -> None:
    x = _inputs(100, 1)
    y = (torch.arange(100) % 2).float()
    binary = evaluate(FakeFit(nn.Identity(), likelihood=Bernoulli()), (x, y))
    two_logits = torch.cat([torch.zeros_like(x), x], dim=1)
    classes = evaluate(FakeFit(nn.Identity(), likelihood=Categorical()), (two_logits, y.long()))
    for name in ("error", "nll", "ece"):
        assert getattr(binary, name) == pytest.approx(getattr(classes, name), abs=1e-6)


def test_several_binary_targets_count_as_more_points() -> None:
    x = torch.tensor([[2.0, -2.0], [2.0, 2.0]])
    y = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert evaluate(FakeFit(nn.Identity(), likelihood=Bernoulli()), (x, y)).error == 0.25


def test_regression_in_closed_form() -> None:
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([2.0, 4.0])
    metrics = evaluate(FakeFit(nn.Identity(), likelihood=Gaussian(2.0)), (x, y))
    assert metrics.rmse == pytest.approx(2.5**0.5)
    expected = 0.5 * math.log(2 * math.pi * 4.0) + 2.5 / 8
    assert metrics.nll == pytest.approx(expected, rel=1e-6)
    assert (metrics.error, metrics.ece, metrics.brier) == (None, None, None)
    assert metrics.primary == ("rmse", metrics.rmse)


def test_counts_have_an_rmse_of_the_expected_count() -> None:
    x, y = torch.tensor([[0.0], [math.log(3.0)]]), torch.tensor([1, 5])
    metrics = evaluate(FakeFit(nn.Identity(), likelihood=Poisson()), (x, y))
    assert metrics.rmse == pytest.approx(2.0**0.5, rel=1e-6)
    expected = -(-1.0 + (5 * math.log(3.0) - 3.0 - math.lgamma(6.0))) / 2
    assert metrics.nll == pytest.approx(expected, rel=1e-6)


def test_every_kind_of_data_gives_the_same_numbers() -> None:
    x = _inputs(50, 4)
    y = torch.arange(50) % 4
    pair = evaluate(FakeFit(nn.Identity()), (x, y))
    dataset = TensorDataset(x, y)
    assert evaluate(FakeFit(nn.Identity()), dataset) == pair
    assert evaluate(FakeFit(nn.Identity()), DataLoader(dataset, batch_size=7)) == pair


def test_one_hot_targets_give_the_figures_of_their_labels() -> None:
    x = _inputs(200, 3)
    y = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(1))
    fit = FakeFit(nn.Identity(), noise=0.5)
    torch.manual_seed(0)
    labels = evaluate(fit, (x, y))
    torch.manual_seed(0)
    one_hot = evaluate(fit, (x, nn.functional.one_hot(y, 3).float()))
    assert one_hot.nll == pytest.approx(labels.nll, rel=1e-5)
    for name in ("num_points", "error", "ece", "brier", "rmse"):
        assert getattr(one_hot, name) == getattr(labels, name)


def test_soft_targets_count_as_their_most_probable_class_and_with_their_expected_density() -> None:
    x = _inputs(200, 3)
    soft = (2 * _inputs(200, 6)[:, 3:]).softmax(1)
    metrics = evaluate(FakeFit(nn.Identity()), (x, soft))
    labels = evaluate(FakeFit(nn.Identity()), (x, soft.argmax(1)))
    assert (metrics.error, metrics.ece, metrics.brier) == (labels.error, labels.ece, labels.brier)
    cross_entropy = nn.functional.cross_entropy(x, soft).item()
    assert metrics.nll == pytest.approx(cross_entropy, rel=1e-5)


def test_targets_with_further_axes_count_as_more_points() -> None:
    x = _inputs(20, 6).view(20, 2, 3)
    y = torch.randint(0, 3, (20, 2), generator=torch.Generator().manual_seed(1))
    metrics = evaluate(FakeFit(nn.Identity()), (x, y))
    assert metrics.error == pytest.approx((x.argmax(-1) != y).double().mean().item())
    soft = evaluate(FakeFit(nn.Identity()), (x, nn.functional.one_hot(y, 3).float()))
    assert (soft.error, soft.ece) == (metrics.error, metrics.ece)


def test_targets_that_fitting_refuses_are_refused() -> None:
    x, y = _inputs(6, 3), torch.arange(6) % 3
    classes, single = FakeFit(nn.Identity()), FakeFit(nn.Identity(), likelihood=Gaussian())
    with pytest.raises(ShapeError, match=r"under Categorical; given: targets \(6, 1\), output"):
        evaluate(classes, (x, y[:, None]))
    with pytest.raises(InvalidDataError, match="class labels have the wrong type"):
        evaluate(classes, (x, y.float()))
    with pytest.raises(InvalidDataError, match="class labels are out of range"):
        evaluate(classes, (x, y + 1))
    with pytest.raises(InvalidDataError, match="soft targets are no class probabilities"):
        evaluate(classes, (x, x))
    with pytest.raises(InvalidDataError, match="NaN"):
        evaluate(single, (x, x / 0.0))
    for labels in (y[:5], y[:1]):
        with pytest.raises(ShapeError, match="different numbers of rows"):
            evaluate(classes, (x, labels))
    with pytest.raises(ShapeError, match="under Gaussian"):
        evaluate(single, (x[:, 0], x[:, :1]))


def test_metrics_are_values() -> None:
    assert Metrics(3, 0.5, error=0.1) == Metrics(3, 0.5, error=0.1)
