from __future__ import annotations

from typing import Any

import pytest
import torch

from pyro_turbovbi import data
from pyro_turbovbi.errors import InvalidArgumentError


def _runs(support: torch.Tensor) -> list[int]:
    lengths, current = [], 0
    for value in [*support.tolist(), False]:
        if value:
            current += 1
        elif current:
            lengths.append(current)
            current = 0
    return lengths


@pytest.mark.parametrize("seed", range(5))
def test_the_default_problem(seed: int) -> None:
    problem = data.recovery(seed=seed)
    assert problem.x.shape == (150, 1000)
    assert problem.y.shape == (150,)
    assert _runs(problem.support) == [10] * 5
    assert torch.equal(problem.support, problem.weight != 0)
    magnitude = problem.weight[problem.support].abs()
    assert magnitude.min() >= 0.5
    assert magnitude.max() <= 1.5
    assert problem.weight.sign().unique().tolist() == [-1.0, 0.0, 1.0]


def test_moments_of_matrix_and_noise() -> None:
    problem = data.recovery(400, noise=0.3, dtype=torch.float64)
    entries = problem.x.flatten() * 400**0.5
    # 400,000 normal draws: five standard errors of mean and variance.
    assert abs(entries.mean()) < 5 / len(entries) ** 0.5
    assert abs(entries.var() - 1.0) < 5 * (2 / len(entries)) ** 0.5
    residual = problem.y - problem.x @ problem.weight
    assert abs(residual.var() / 0.09 - 1.0) < 5 * (2 / 400) ** 0.5


def test_without_noise_the_measurements_are_exact() -> None:
    problem = data.recovery(noise=0.0, dtype=torch.float64)
    assert torch.equal(problem.y, problem.x @ problem.weight)


def test_a_seed_means_one_problem_in_every_dtype() -> None:
    single, double = data.recovery(seed=4), data.recovery(seed=4, dtype=torch.float64)
    assert single.x.dtype == single.y.dtype == single.weight.dtype == torch.float32
    assert double.x.dtype == torch.float64
    assert torch.equal(single.x, double.x.float())
    assert not torch.equal(single.support, data.recovery(seed=5).support)


@pytest.mark.parametrize("weights", [9, 10, 11])
def test_clusters_stay_apart_even_when_tight(weights: int) -> None:
    for seed in range(30):
        problem = data.recovery(5, weights=weights, clusters=3, cluster_length=2, seed=seed)
        assert _runs(problem.support) == [2, 2, 2]


def test_all_arrangements_occur() -> None:
    seen = {
        tuple(data.recovery(1, weights=5, clusters=2, cluster_length=1, seed=s).support.tolist())
        for s in range(200)
    }
    assert len(seen) == 6  # two separate ones in five places


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measurements": 0}, "measurements is too small"),
        ({"weights": 0}, "weights is too small"),
        ({"clusters": 0}, "clusters is too small"),
        ({"cluster_length": 0}, "cluster_length is too small"),
        ({"noise": -1.0}, "noise is negative"),
        ({"weights": 53}, "5 clusters of 10 in 53 weights; accepted: at least 54"),
    ],
)
def test_impossible_problems_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        data.recovery(**arguments)


@pytest.mark.parametrize("seed", range(3))
def test_the_default_gated_problem(seed: int) -> None:
    problem = data.gated_recovery(seed=seed)
    assert problem.x.shape == (40, 200)
    assert problem.y.shape == (40, 20)
    assert problem.weight.shape == problem.support.shape == (20, 200)
    assert torch.equal(problem.support, problem.weight != 0)
    assert torch.equal(problem.relevant, problem.support.any(0))
    assert 17 <= int(problem.relevant.sum()) <= 20
    residual = problem.y - problem.x @ problem.weight.T
    assert float(residual.std()) == pytest.approx(0.02, rel=0.15)
    assert torch.equal(problem.y, data.gated_recovery(seed=seed).y)


def test_outputs_of_a_relevant_input_form_runs() -> None:
    problem = data.gated_recovery(1, outputs=4000, inputs=60, relevant=50, mean_run=8.0)
    lines = problem.support[:, problem.relevant].T
    assert float(lines.double().mean()) == pytest.approx(0.5, abs=0.02)
    lengths = [length for line in lines for length in _runs(line)]
    assert sum(lengths) / len(lengths) == pytest.approx(8.0, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": 0}, "outputs is too small"),
        ({"relevant": 201}, "do not fit"),
        ({"density": 1.0}, "no chain"),
        ({"density": 0.9, "mean_run": 2.0}, "no chain"),
        ({"noise": -1.0}, "noise is negative"),
    ],
)
def test_gated_refuses_what_is_impossible(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        data.gated_recovery(**options)
