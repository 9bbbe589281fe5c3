"""Soft targets: the mean belief of teachers, and the likelihood that takes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError

X, Y = torch.randn(50, 4), torch.randint(0, 3, (50,))


def teacher(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def test_mean_belief_of_several_teachers() -> None:
    nets = [teacher(seed) for seed in range(3)]
    x, soft = ptv.soft_targets(nets, (X, Y))
    expected = torch.stack([net.eval()(X).softmax(-1) for net in nets]).mean(0)
    assert torch.equal(x, X)
    torch.testing.assert_close(soft, expected)


def test_teachers_are_left_as_they_are() -> None:
    net = teacher().train()
    ptv.soft_targets(net, (X, Y))
    assert net.training


def test_weight_mixes_with_the_labels() -> None:
    net = teacher()
    belief = ptv.soft_targets(net, (X, Y))[1]
    mixed = ptv.soft_targets(net, (X, Y), weight=0.25)[1]
    torch.testing.assert_close(mixed, 0.25 * belief + 0.75 * nn.functional.one_hot(Y, 3))


def test_a_fit_teaches_its_posterior_predictive() -> None:
    bnn = ptv.lift(teacher(), likelihood=likelihoods.Categorical(), prior=priors.Normal())
    fit = ptv.fit(bnn, (X, Y), engine=engines.MAP(), epochs=1, progress=False)
    soft = ptv.soft_targets(fit, (X, Y))[1]
    torch.testing.assert_close(soft, fit.predict(X).mean)


def test_log_likelihood_of_soft_targets_is_the_expected_one() -> None:
    logits, soft = torch.randn(5, 3), torch.rand(5, 3).softmax(-1)
    law = likelihoods.Categorical().distribution(logits)
    by_class = torch.stack([law.log_prob(torch.full((5,), c)) for c in range(3)], -1)
    torch.testing.assert_close(law.log_prob(soft), (soft * by_class).sum(-1))


def test_certain_soft_targets_are_labels() -> None:
    fits = []
    for y in (Y, nn.functional.one_hot(Y, 3).float()):
        bnn = ptv.lift(teacher(), likelihood=likelihoods.Categorical(), prior=priors.ThreeLayer())
        fits.append(ptv.fit(bnn, (X, y), epochs=2, batch_size=20, seed=3, progress=False))
    means = [fit.posterior.mean() for fit in fits]
    for name, mean in means[0].items():
        torch.testing.assert_close(means[1][name], mean)


@pytest.mark.parametrize(
    ("teachers", "data", "options", "error", "message"),
    [
        ([], (X, Y), {}, InvalidArgumentError, "teachers are of the wrong kind.*none"),
        (teacher(), (X, Y), {"weight": 0.0}, InvalidArgumentError, "weight is out of range"),
        (teacher(), (X, Y + 1), {}, InvalidDataError, "no classes of the teachers"),
        (teacher(), (X, X), {}, InvalidDataError, "no classes of the teachers"),
    ],
)
def test_bad_input(
    teachers: Any, data: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ptv.soft_targets(teachers, data, **options)


def test_soft_targets_that_are_no_probabilities() -> None:
    bnn = ptv.lift(teacher(), likelihood=likelihoods.Categorical(), prior=priors.Normal())
    with pytest.raises(InvalidDataError, match="soft targets are no class probabilities"):
        ptv.fit(bnn, (X, torch.randn(50, 3)), epochs=1, progress=False)
