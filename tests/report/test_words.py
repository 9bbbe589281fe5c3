from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

from pyro_turbovbi.diagnostics.evaluation import Metrics
from pyro_turbovbi.report import words
from pyro_turbovbi.report.findings import Certainty, Coverage, Findings
from pyro_turbovbi.report.network import Costs, SmallNetwork


def small(**after: float) -> SmallNetwork:
    costs = {"parameters": 10, "bytes": 500, "flops": 7, "latency": 1e-4} | after
    return SmallNetwork(
        nn.Identity(), Costs(100, 20_000, 70, 2e-4), Costs(**costs), {}, "plain", batch=256
    )  # type: ignore[arg-type]


def classes(small_error: float | None, first: int = 0, second: int = 0) -> Findings:
    return Findings(Metrics(200, 0.1, error=0.05), 0.9, small_error, first, second)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.0179, "1.8 %"), (0.0004, "0.04 %"), (0.9994, "99.9 %")],
)
def test_shares(share: float, text: str) -> None:
    assert words.percent(share) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(748, "748 bytes"), (5_881, "5.88 kB"), (1_066_440, "1.07 MB"), (3e12, "3e+03 GB")],
)
def test_sizes(count: float, text: str) -> None:
    assert words.size(count) == text


def test_weights_left() -> None:
    assert words.weights_left(25, 1000).endswith("25 are left: 2.5 %, or 1 in 40.")
    assert "All 10 weights" in words.weights_left(10, 10)
    assert "None of the 10 weights is left" in words.weights_left(0, 10)


def test_cost() -> None:
    text = words.cost(small())
    assert "a file of 500 bytes, 40 times smaller than the 20 kB" in text
    assert "256 inputs take it 0.1 ms; the original takes 0.2 ms" in text
    assert "On this machine" not in words.cost(small(latency=None))  # type: ignore[arg-type]
    assert "2.0 times larger" in words.cost(small(bytes=40_000))
    assert "There is no small network yet" in words.cost(None)


def test_errors_of_classifiers() -> None:
    assert words.error(classes(None)).endswith(
        "wrong for 5.0 % (always giving the most common answer: 90.0 %)."
    )
    assert words.error(classes(0.05, 3, 3)).endswith("Neither is better.")
    assert words.error(classes(0.07, 7, 1)).endswith(
        "right in 8 points, the trained network in 7 of them: a difference that can be chance."
    )
    assert words.error(classes(0.15, 1, 20)).endswith("the small network is better indeed.")
    assert "No test data" in words.error(None)


def test_errors_of_regressions() -> None:
    found = Findings(Metrics(50, 0.1, rmse=0.25), 1.0, 0.5)
    text = words.error(found)
    assert "misses the target by 0.25 (always giving the mean: 1)" in text
    assert text.endswith("The small network misses by 0.5.")


@pytest.mark.parametrize(
    ("confidence", "verdict"),
    [(0.9, "taken at its word"), (0.97, "too sure of itself"), (0.8, "too cautious")],
)
def test_confidence_of_classifiers(confidence: float, verdict: str) -> None:
    found = Findings(
        Metrics(1000, 0.1, error=0.1), 0.5, certainty=Certainty(confidence, 0.9, 1000, 100, 100, 60)
    )
    text = words.uncertainty(found)
    assert verdict in text
    assert text.endswith("a tenth of all, are 60 of the 100 wrong ones.")


def test_uncertainty_that_does_not_find_mistakes_is_called_so() -> None:
    found = Findings(
        Metrics(100, 0.1, error=0.1), 0.5, certainty=Certainty(0.9, 0.9, 100, 10, 10, 1)
    )
    assert "does not point at its mistakes" in words.uncertainty(found)


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.9, "at their word"), (0.7, "too narrow"), (0.99, "too wide")],
)
def test_confidence_of_regressions(share: float, verdict: str) -> None:
    found = Findings(Metrics(500, 0.1, rmse=1.0), 1.0, coverage=Coverage(0.9, share, 500))
    assert words.uncertainty(found).startswith("Its 90 % intervals hold the true value in")
    assert verdict in words.uncertainty(found)


def test_what_cannot_be_said() -> None:
    assert words.uncertainty(None).startswith("Without test data")
    assert "counts" in words.uncertainty(Findings(Metrics(5, 0.1, rmse=1.0), 1.0))


def test_sign_test_against_enumeration() -> None:
    """Of all ways to split n points in two, those at least as uneven as the given one."""
    assert words.sign_test(0, 0) == 1.0
    for first, second in [(1, 0), (7, 1), (4, 4), (2, 9), (0, 6)]:
        n = first + second
        splits = torch.tensor([sum(bits) for bits in product((0, 1), repeat=n)])
        uneven = (splits - n / 2).abs() >= abs(first - n / 2)
        assert words.sign_test(first, second) == pytest.approx(uneven.double().mean().item())
