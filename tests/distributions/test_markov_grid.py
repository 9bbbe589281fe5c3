from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.distributions import IndependentSupport, MarkovGridSupport
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from tests.oracles.enumeration import all_states, grid_log_prior
from tests.oracles.transfer_matrix import transfer_matrix

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def random_llr(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("density", [0.05, 0.5, 0.8])
def test_without_coupling_it_is_the_independent_support(density: float) -> None:
    llr, free = random_llr(4, 9), 1 / (1 - density)
    grid = MarkovGridSupport((4, 9), density, (free, free))
    independent = IndependentSupport((4, 9), density)
    a, b = grid.posterior(llr), independent.posterior(llr)
    torch.testing.assert_close(a.log_odds, b.log_odds, **EXACT)
    torch.testing.assert_close(a.extrinsic, b.extrinsic, **EXACT)
    torch.testing.assert_close(a.log_evidence, b.log_evidence, **EXACT)
    value = independent.sample((5,)).double()
    torch.testing.assert_close(grid.log_prob(value), independent.log_prob(value), **EXACT)


def test_no_evidence_and_no_coupling_give_exactly_the_density() -> None:
    grid = MarkovGridSupport((4, 9), 0.05, (1 / 0.95, 1 / 0.95))
    post = grid.posterior(torch.zeros(4, 9, dtype=torch.float64))
    torch.testing.assert_close(post.probs, torch.full((4, 9), 0.05, dtype=torch.float64), **EXACT)


def test_log_prob_lacks_only_the_normaliser() -> None:
    grid = MarkovGridSupport((4, 4), 0.3, (2.0, 1.8))
    row, column = grid.laws
    exact = transfer_matrix(torch.zeros(4, 4), row, column)
    states = all_states(16).view(-1, 4, 4)
    total = grid.log_prob(states).logsumexp(0)
    torch.testing.assert_close(total, exact.log_evidence, **EXACT)
    assert float(total) > 0.01  # coupled in both directions it is not normalised


def test_log_prob_takes_rows_and_columns_the_right_way_round() -> None:
    grid = MarkovGridSupport((2, 3), 0.3, (4.0, 1.6))
    states = all_states(6).view(-1, 2, 3)
    oracle = grid_log_prior(states, *grid.laws)
    torch.testing.assert_close(grid.log_prob(states), oracle, **EXACT)


def test_strong_coupling_in_both_directions_has_a_sparse_and_a_dense_phase() -> None:
    grid = MarkovGridSupport((30, 30), 0.05, (5.0, 5.0), sweeps=20)
    assert float(grid.log_prob(torch.ones(30, 30))) > float(grid.log_prob(torch.zeros(30, 30)))
    weak = 0.1 * random_llr(30, 30)
    assert float(grid.posterior(weak).probs.mean()) > 0.9
    assert float(grid.posterior(weak - 0.5).probs.mean()) < 0.001
    nearly_free = MarkovGridSupport((30, 30), 0.05, (1.2, 1.2), sweeps=20)
    assert float(nearly_free.posterior(weak).probs.mean()) == pytest.approx(0.05, abs=0.01)


def test_a_warm_start_reaches_the_fixed_point() -> None:
    llr = random_llr(6, 7)
    grid = MarkovGridSupport((6, 7), 0.3, (2.0, 2.0))
    post = grid.posterior(llr)
    for _ in range(60):
        post = grid.posterior(llr, start=post.messages, pairwise=False, log_evidence=False)
    converged = MarkovGridSupport((6, 7), 0.3, (2.0, 2.0), sweeps=200, tolerance=1e-10)
    torch.testing.assert_close(post.log_odds, converged.posterior(llr).log_odds, rtol=0, atol=1e-7)


def test_warm_start_messages_have_the_shape_of_a_conv_weight() -> None:
    llr = random_llr(4, 3, 2, 2).float()
    grid = MarkovGridSupport((4, 3, 2, 2), 0.3, (2.0, 2.0))
    first = grid.posterior(llr)
    assert first.messages.shape == llr.shape
    second = grid.posterior(llr, start=first.messages)
    four = MarkovGridSupport((4, 3, 2, 2), 0.3, (2.0, 2.0), sweeps=4).posterior(llr)
    torch.testing.assert_close(second.log_odds, four.log_odds, rtol=1e-5, atol=1e-5)


def test_maximise_finds_the_law_of_its_samples() -> None:
    torch.manual_seed(0)
    truth = MarkovGridSupport((80, 80), 0.4, (2.5, 1 / 0.6))  # coupled along rows only
    llr = 12 * (2 * truth.sample() - 1)
    fitted = truth.maximise(truth.posterior(llr))
    assert float(fitted.density) == pytest.approx(0.4, abs=0.03)
    assert float(fitted.row_run) == pytest.approx(2.5, rel=0.08)
    assert float(fitted.column_run) == pytest.approx(1 / 0.6, rel=0.08)


def test_maximise_keeps_the_run_of_a_direction_without_pairs() -> None:
    grid = MarkovGridSupport((1, 20), 0.3, (2.0, 3.0))
    fitted = grid.maximise(grid.posterior(random_llr(1, 20)))
    assert float(fitted.column_run) == 3.0
    assert float(fitted.row_run) != 2.0


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_maximise_lengthens_a_run_that_the_density_does_not_allow(
    shape: tuple[int, int],
) -> None:
    grid = MarkovGridSupport(shape, 0.1, (3.0, 3.0))
    dense = grid.maximise(grid.posterior(torch.full(shape, 30.0)))
    assert float(dense.density) == pytest.approx(1 - 1e-6)
    assert all(0.0 < p < 1.0 for law in dense.laws for p in (law.p01, law.p10))
    assert dense.posterior(torch.zeros(shape)).probs.min() > 0.9


def test_maximise_keeps_the_message_schedule() -> None:
    grid = MarkovGridSupport(
        (5, 6), 0.3, (2.0, 2.0), sweeps=7, damping=0.2, tolerance=1e-3, gibbs_sweeps=9
    )
    fitted = grid.maximise(grid.posterior(random_llr(5, 6)))
    for name in ("sweeps", "damping", "tolerance", "gibbs_sweeps"):
        assert getattr(fitted, name) == getattr(grid, name)


def test_refuses_vectors_schedules_and_missing_counts() -> None:
    with pytest.raises(ShapeError, match="for a vector use a chain"):
        MarkovGridSupport((5,), 0.3, (2.0, 2.0))
    with pytest.raises(InvalidArgumentError, match="schedule"):
        MarkovGridSupport((5, 5), 0.3, (2.0, 2.0), sweeps=0)
    with pytest.raises(InvalidArgumentError, match="schedule"):
        MarkovGridSupport((5, 5), 0.3, (2.0, 2.0), damping=1.0)
    with pytest.raises(InvalidArgumentError, match="p01 of the column law"):
        MarkovGridSupport((5, 5), 0.9, (10.0, 2.0))
    grid = MarkovGridSupport((3, 4), 0.3, (2.0, 2.0))
    with pytest.raises(InvalidArgumentError, match="pairwise=True"):
        grid.maximise(grid.posterior(torch.zeros(3, 4), pairwise=False))


def test_explicit_dims_make_independent_grids() -> None:
    shape, laws = (3, 4, 2, 2), (2.0, 1.6)
    prior = MarkovGridSupport(shape, 0.3, laws, dims=(0, 1))
    alone = MarkovGridSupport((3, 4), 0.3, laws)
    llr = random_llr(5, *shape)
    post, batch = prior.posterior(llr), alone.posterior(llr.permute(0, 3, 4, 1, 2))
    torch.testing.assert_close(post.log_odds.permute(0, 3, 4, 1, 2), batch.log_odds, **EXACT)
    torch.testing.assert_close(post.log_evidence, batch.log_evidence.sum((1, 2)), **EXACT)
    torch.testing.assert_close(post.pairwise.row, batch.pairwise.row.sum((1, 2)), **EXACT)
    draws = prior.sample((6,)).double()
    assert draws.shape == (6, *shape)
    each = alone.log_prob(draws.permute(0, 3, 4, 1, 2))
    torch.testing.assert_close(prior.log_prob(draws), each.sum((1, 2)), **EXACT)
    assert prior.maximise(post).dims == (0, 1)
    for dims in ((0, 0), (0, 4), (1, -3)):
        with pytest.raises(ShapeError, match="two different dims"):
            MarkovGridSupport(shape, 0.3, laws, dims=dims)
