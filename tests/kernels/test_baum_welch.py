from __future__ import annotations

import math

import pytest
import torch

from pyro_turbovbi.kernels import ChainLaw, chain_posterior
from pyro_turbovbi.kernels.baum_welch import (
    bounded,
    maximise_chain_law,
    maximise_run,
    shortest_run,
)

COUNTS = [[120.0, 7.0], [9.0, 31.0]]


def objective(law: ChainLaw, ones: float, zeros: float) -> float:
    """Expected log-probability of chains with these counts."""
    (n00, n01), (n10, n11) = COUNTS
    start = ones * math.log(law.density) + zeros * math.log(1 - law.density)
    stay = n00 * math.log(law.p00) + n11 * math.log(law.p11)
    return start + stay + n01 * math.log(law.p01) + n10 * math.log(law.p10)


@pytest.mark.parametrize(("ones", "zeros"), [(0.0, 0.0), (3.0, 7.0), (40.0, 2.0), (500.0, 900.0)])
def test_chain_law_is_a_maximum(ones: float, zeros: float) -> None:
    law = maximise_chain_law(ChainLaw(0.5, 0.5), COUNTS, ones, zeros)
    best = objective(law, ones, zeros)
    for scale01 in (0.99, 1.0, 1.01):
        for scale10 in (0.99, 1.0, 1.01):
            nearby = ChainLaw(law.p01 * scale01, law.p10 * scale10)
            assert objective(nearby, ones, zeros) <= best + 1e-9


def test_without_first_elements_it_is_the_ratio_of_counts() -> None:
    law = maximise_chain_law(ChainLaw(0.5, 0.5), COUNTS, 0.0, 0.0)
    assert law.p01 == pytest.approx(7 / 127)
    assert law.p10 == pytest.approx(9 / 40)


def test_chains_of_one_element_tell_only_the_density() -> None:
    law = maximise_chain_law(ChainLaw(0.1, 0.3), [[0.0, 0.0], [0.0, 0.0]], 2.0, 8.0)
    assert law.density == pytest.approx(0.2)


@pytest.mark.parametrize("density", [0.05, 0.25, 0.8])
def test_run_is_a_maximum_at_the_density(density: float) -> None:
    run = maximise_run(density, COUNTS)
    assert ChainLaw.stationary(density, run).density == pytest.approx(density)
    best = objective(ChainLaw.stationary(density, run), 0.0, 0.0)
    for scale in (0.99, 1.01):
        assert objective(ChainLaw.stationary(density, run * scale), 0.0, 0.0) <= best + 1e-9


@pytest.mark.parametrize(
    "counts", [[[9.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 9.0]], [[0.0, 5.0], [5.0, 0.0]]]
)
@pytest.mark.parametrize("density", [1e-6, 0.3, 1 - 1e-6])
def test_estimates_stay_off_the_border(counts: list[list[float]], density: float) -> None:
    for law in (
        maximise_chain_law(ChainLaw(0.5, 0.5), counts, 0.0, 1.0),
        ChainLaw.stationary(density, maximise_run(density, counts)),
    ):
        assert 1e-7 < law.p01 < 1
        assert 1e-7 < law.p10 < 1


@pytest.mark.parametrize("density", [1e-6, 0.3, 0.5, 0.8, 1 - 1e-6])
def test_the_shortest_run_has_transition_probabilities_up_to_one(density: float) -> None:
    law = ChainLaw.stationary(density, shortest_run(density))
    assert max(law.p01, law.p10) == pytest.approx(1 - 1e-6, abs=1e-9)
    assert maximise_run(density, [[0.0, 1e9], [1e9, 0.0]]) == pytest.approx(shortest_run(density))


def test_bounded_leaves_the_inside_alone() -> None:
    assert [bounded(p) for p in (0.0, 0.3, 1.0)] == [1e-6, 0.3, 1 - 1e-6]


def test_every_step_of_expectation_maximisation_raises_the_evidence() -> None:
    generator = torch.Generator().manual_seed(0)
    llr = 3 * torch.randn(30, 8, generator=generator, dtype=torch.float64) - 2
    law, evidence = ChainLaw(0.5, 0.5), -math.inf
    for _ in range(15):
        post = chain_posterior(llr, law, pairwise=True, log_evidence=True)
        total = float(post.log_evidence.sum())
        assert total >= evidence - 1e-9
        evidence = total
        ones = float(post.log_odds[:, 0].sigmoid().sum())
        law = maximise_chain_law(law, post.transitions.sum(0).tolist(), ones, 30 - ones)
