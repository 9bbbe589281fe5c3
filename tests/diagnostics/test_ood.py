from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from pyro_turbovbi.diagnostics import auroc, ood_auroc
from pyro_turbovbi.diagnostics.ood import uncertainty
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, UnsupportedError
from pyro_turbovbi.likelihoods import Bernoulli, Categorical, Gaussian
from pyro_turbovbi.posterior import Prediction
from tests.diagnostics.fakes import FakeFit


@pytest.mark.parametrize("levels", [3, 50, 10**6])
@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (40, 7), (1000, 3000)])
def test_auroc_equals_scikit_learns_with_any_number_of_ties(
    positives: int, negatives: int, levels: int
) -> None:
    a = torch.randint(levels // 5, levels, (positives,)).double()
    b = torch.randint(0, levels, (negatives,)).double()
    labels = [1] * positives + [0] * negatives
    expected = roc_auc_score(labels, torch.cat([a, b]).tolist())
    assert auroc(a, b) == pytest.approx(expected, abs=1e-12)


def test_ties_count_half_and_order_is_all_that_counts() -> None:
    assert auroc(torch.tensor([1.0]), torch.tensor([1.0, 0.0])) == 0.75
    assert auroc(torch.tensor([3.0, 2.0]), torch.tensor([1.0])) == 1.0
    assert auroc(torch.tensor([0.0, 0.5]), torch.tensor([1.0])) == 0.0
    inf = torch.tensor([math.inf, 1.0])
    assert auroc(inf, torch.tensor([-math.inf, 1.0])) == 0.875


def test_scores_in_closed_form() -> None:
    # Two draws that are sure of different classes, and two that are equally unsure.
    probs = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
    prediction = Prediction(probs.clamp(min=1e-30).log(), Categorical())
    scores = uncertainty(prediction)
    assert scores.max_probability.tolist() == pytest.approx([0.5, 0.5])
    assert scores.entropy.tolist() == pytest.approx([math.log(2)] * 2)
    assert scores.mutual_information.tolist() == pytest.approx([math.log(2), 0.0], abs=1e-12)


def test_mutual_information_is_the_mean_divergence_from_the_mean() -> None:
    outputs = torch.randn(7, 11, 4, dtype=torch.float64)
    probs = outputs.softmax(-1)
    divergence = (probs * (probs.log() - probs.mean(0).log())).sum(-1).mean(0)
    scores = uncertainty(Prediction(outputs, Categorical()))
    assert torch.allclose(scores.mutual_information, divergence, rtol=1e-10)


def test_a_binary_output_counts_as_two_classes() -> None:
    logit = torch.randn(5, 20, 1)
    binary = uncertainty(Prediction(logit, Bernoulli()))
    two = uncertainty(Prediction(torch.cat([torch.zeros_like(logit), logit], -1), Categorical()))
    for ours, theirs in zip(binary, two, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_distant_inputs_are_found() -> None:
    # Logits grow away from the origin, so that inputs near it are the unsure ones.
    fit = FakeFit(nn.Identity())
    inside, outside = 5.0 * torch.randn(200, 3), 0.1 * torch.randn(300, 3)
    none = torch.zeros(200).long()
    found = ood_auroc(fit, (inside, none), (outside, torch.zeros(300).long()))
    assert found > 0.9
    assert ood_auroc(fit, (inside, none), (inside, none)) == 0.5


def test_the_draws_depend_on_the_seed_alone() -> None:
    fit = FakeFit(nn.Identity(), noise=1.0)
    pair = (torch.randn(50, 3), torch.zeros(50).long())
    other = (0.5 * torch.randn(50, 3), torch.zeros(50).long())

    def value(seed: int) -> float:
        return ood_auroc(fit, pair, other, score="mutual_information", seed=seed)

    state = torch.get_rng_state()
    first = value(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert value(1) == first
    assert value(2) != first


def test_bad_input_is_refused(no_type_checks: None) -> None:
    none = torch.empty(0)
    with pytest.raises(InvalidDataError, match="given: 0 positives, 1 negatives"):
        auroc(none, torch.zeros(1))
    with pytest.raises(InvalidDataError, match="a score is NaN"):
        auroc(torch.tensor([math.nan]), torch.zeros(1))
    with pytest.raises(UnsupportedError, match="need class probabilities; given: Gaussian"):
        uncertainty(Prediction(torch.zeros(2, 3, 1), Gaussian()))
    pair = (torch.zeros(2, 3), torch.zeros(2).long())
    fit = FakeFit(nn.Identity())
    score: Any = "variance"
    with pytest.raises(InvalidArgumentError, match="unknown score; given: variance; accepted: max"):
        ood_auroc(fit, pair, pair, score=score)
