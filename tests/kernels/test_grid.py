from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, NumericalError, ShapeError
from pyro_turbovbi.kernels import ChainLaw, chain_posterior, grid_posterior
from tests.oracles.enumeration import all_states, enumerate_posterior, grid_log_prior
from tests.oracles.transfer_matrix import transfer_matrix

EXACT = {"rtol": 1e-10, "atol": 1e-10}
MODERATE = [(0.3, 2.0), (0.2, 1.8), (0.5, 3.0), (0.3, 1.5)]
CONVERGED = {"sweeps": 200, "tolerance": 1e-9}


def random_llr(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def both(density: float, mean_run: float) -> tuple[ChainLaw, ChainLaw]:
    law = ChainLaw.stationary(density, mean_run)
    return law, law


@pytest.mark.parametrize(("density", "mean_run"), [*MODERATE, (0.05, 5.0)])
@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 6), (6, 1), (2, 2)])
def test_the_transfer_matrix_oracle_equals_enumeration(
    shape: tuple[int, int], density: float, mean_run: float
) -> None:
    row, column = ChainLaw.stationary(density, mean_run), ChainLaw.stationary(density, 2.5)
    states, llr = all_states(shape[0] * shape[1]), random_llr(*shape)
    prior = grid_log_prior(states.view(-1, *shape), row, column)
    exact = enumerate_posterior(states, prior, llr.flatten())
    oracle = transfer_matrix(llr, row, column)
    torch.testing.assert_close(oracle.probs.flatten(), exact.probs, **EXACT)
    torch.testing.assert_close(oracle.log_evidence, exact.log_evidence, **EXACT)


@pytest.mark.parametrize(("density", "mean_run"), MODERATE)
def test_small_grids_are_close_to_enumeration(density: float, mean_run: float) -> None:
    laws, states = both(density, mean_run), all_states(12)
    llr = torch.stack([random_llr(3, 4, seed=seed) for seed in range(20)])
    prior = grid_log_prior(states.view(-1, 3, 4), *laws)
    exact = enumerate_posterior(states, prior, llr.flatten(1))
    post = grid_posterior(llr, *laws, **CONVERGED, log_evidence=True)
    error = (post.log_odds.sigmoid().flatten(1) - exact.probs).abs()
    assert float(error.max()) < 0.05
    assert float((post.log_evidence - exact.log_evidence).abs().max()) < 0.15


@pytest.mark.parametrize(("density", "mean_run"), [(0.3, 1.8), (0.5, 3.0), (0.3, 2.0)])
@pytest.mark.parametrize("width", [6, 8])
def test_wide_grids_are_close_to_the_transfer_matrix(
    width: int, density: float, mean_run: float
) -> None:
    laws, llr = both(density, mean_run), random_llr(15, width, seed=width)
    exact = transfer_matrix(llr, *laws)
    post = grid_posterior(llr, *laws, **CONVERGED, log_evidence=True)
    assert float((post.log_odds.sigmoid() - exact.probs).abs().max()) < 0.05
    assert float((post.log_evidence - exact.log_evidence).abs()) < 0.01 * llr.numel()


@pytest.mark.parametrize("shape", [(1, 9), (9, 1)])
def test_a_single_line_is_exact(shape: tuple[int, int]) -> None:
    laws, llr = both(0.1, 5.0), random_llr(*shape)
    post = grid_posterior(llr, *laws, sweeps=1, pairwise=True, log_evidence=True)
    chain = chain_posterior(llr.flatten(), laws[0], pairwise=True, log_evidence=True)
    torch.testing.assert_close(post.log_odds.flatten(), chain.log_odds, **EXACT)
    torch.testing.assert_close(post.log_evidence, chain.log_evidence, **EXACT)
    counts = post.transitions.row if shape[0] == 1 else post.transitions.column
    torch.testing.assert_close(counts, chain.transitions, **EXACT)


def test_coupling_in_one_direction_only_is_exact() -> None:
    density, llr = 0.2, random_llr(4, 6)
    free, coupled = ChainLaw.stationary(density, 1 / (1 - density)), ChainLaw.stationary(density, 4)
    for row, column, dim in ((coupled, free, -1), (free, coupled, -2)):
        post = grid_posterior(llr, row, column, log_evidence=True)
        chain = chain_posterior(llr, coupled, dim=dim, log_evidence=True)
        torch.testing.assert_close(post.log_odds, chain.log_odds, **EXACT)
        torch.testing.assert_close(post.log_evidence, chain.log_evidence.sum(), **EXACT)


@pytest.mark.parametrize("density", [1e-6, 0.05, 0.5, 0.9])
def test_without_coupling_and_evidence_the_density_is_counted_once(density: float) -> None:
    laws = both(density, 1 / (1 - density))
    post = grid_posterior(torch.zeros(4, 5, dtype=torch.float64), *laws, log_evidence=True)
    once = torch.full((4, 5), math.log(density / (1 - density)), dtype=torch.float64)
    torch.testing.assert_close(post.log_odds, once, **EXACT)
    torch.testing.assert_close(post.extrinsic, once, **EXACT)
    assert float(post.log_evidence) == pytest.approx(0.0, abs=1e-10)


def test_bethe_normaliser_of_the_prior_is_one() -> None:
    post = grid_posterior(
        torch.zeros(6, 7, dtype=torch.float64), *both(0.05, 5.0), log_evidence=True
    )
    assert float(post.log_evidence) == pytest.approx(0.0, abs=1e-10)


def test_bethe_evidence_is_stationary_where_its_gradient_says() -> None:
    laws, llr = both(0.3, 2.0), random_llr(4, 5, seed=4)
    step = torch.zeros_like(llr)
    step[2, 3] = 1e-4
    up, down = (
        grid_posterior(llr + sign * step, *laws, **CONVERGED, log_evidence=True).log_evidence
        for sign in (1, -1)
    )
    post = grid_posterior(llr, *laws, **CONVERGED)
    slope = float(up - down) / 2e-4
    assert slope == pytest.approx(float(post.log_odds[2, 3].sigmoid()), abs=1e-6)


def test_extrinsic_is_what_the_posterior_adds() -> None:
    llr = random_llr(2, 5, 6)
    post = grid_posterior(llr, *both(0.3, 2.0), **CONVERGED)
    torch.testing.assert_close(post.extrinsic + llr, post.log_odds, **EXACT)


def test_at_the_fixed_point_rows_and_columns_agree() -> None:
    llr, law = random_llr(2, 5, 6), both(0.3, 2.0)[0]
    post = grid_posterior(llr, law, law, **CONVERGED)
    rows = chain_posterior(llr + post.messages, law)
    torch.testing.assert_close(rows.extrinsic, post.extrinsic - post.messages, rtol=0, atol=1e-8)


def test_a_warm_start_continues_where_it_stopped() -> None:
    laws, llr = both(0.3, 2.0), random_llr(5, 6)
    first = grid_posterior(llr, *laws, sweeps=2, damping=0.3)
    second = grid_posterior(llr, *laws, sweeps=3, damping=0.3, start=first.messages)
    straight = grid_posterior(llr, *laws, sweeps=5, damping=0.3)
    torch.testing.assert_close(second.log_odds, straight.log_odds, **EXACT)
    assert second.residual == pytest.approx(straight.residual)


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_the_fixed_point_does_not_depend_on_damping_or_start(damping: float) -> None:
    laws, llr = both(0.3, 2.0), random_llr(5, 6)
    reference = grid_posterior(llr, *laws, **CONVERGED)
    start = random_llr(5, 6, seed=1)
    other = grid_posterior(llr, *laws, **CONVERGED, damping=damping, start=start)
    torch.testing.assert_close(other.log_odds, reference.log_odds, rtol=0, atol=1e-7)
    assert other.sweeps < 200


def test_tolerance_stops_early_and_the_residual_tells() -> None:
    laws, llr = both(0.3, 2.0), random_llr(5, 6)
    post = grid_posterior(llr, *laws, sweeps=100, tolerance=1e-3, pairwise=True)
    assert post.residual <= 1e-3
    fixed = grid_posterior(llr, *laws, sweeps=post.sweeps, pairwise=True)
    # counts are computed along in every sweep that may be the last: rounding may differ
    torch.testing.assert_close(post.log_odds, fixed.log_odds, **EXACT)
    torch.testing.assert_close(post.transitions.row, fixed.transitions.row, **EXACT)


def test_transposing_the_grid_swaps_rows_and_columns() -> None:
    row, column = ChainLaw.stationary(0.3, 2.0), ChainLaw.stationary(0.3, 1.7)
    llr = random_llr(5, 6)
    post = grid_posterior(llr, row, column, **CONVERGED, pairwise=True, log_evidence=True)
    turned = grid_posterior(llr.T, column, row, **CONVERGED, pairwise=True, log_evidence=True)
    torch.testing.assert_close(turned.log_odds.T, post.log_odds, rtol=0, atol=1e-7)
    torch.testing.assert_close(turned.log_evidence, post.log_evidence, rtol=0, atol=1e-7)
    torch.testing.assert_close(turned.transitions.column, post.transitions.row, rtol=0, atol=1e-6)


def test_batches_are_independent_grids() -> None:
    laws, llr = both(0.3, 2.0), random_llr(2, 3, 4, 5)
    options = {"pairwise": True, "log_evidence": True}
    post = grid_posterior(llr, *laws, **options)
    for i in range(2):
        for j in range(3):
            alone = grid_posterior(llr[i, j], *laws, **options)
            torch.testing.assert_close(post.log_odds[i, j], alone.log_odds, **EXACT)
            torch.testing.assert_close(post.log_evidence[i, j], alone.log_evidence, **EXACT)
            for counts, expected in zip(post.transitions, alone.transitions, strict=True):
                torch.testing.assert_close(counts[i, j], expected, **EXACT)


@pytest.mark.parametrize("dims", [*itertools.permutations((-3, -2, -1), 2)])
def test_elements_of_further_dims_belong_to_other_grids(dims: tuple[int, int]) -> None:
    row, column = ChainLaw.stationary(0.3, 2.0), ChainLaw.stationary(0.3, 1.7)
    options = {"pairwise": True, "log_evidence": True, "sweeps": 3}
    llr = random_llr(2, 3, 4, 5)
    post = grid_posterior(llr, row, column, dims=dims, event_dims=3, **options)
    (rest,) = {-3, -2, -1} - {*dims}
    for i in range(2):
        turned = llr[i].permute(rest, *dims).contiguous()
        alone = grid_posterior(turned, row, column, **options)
        log_odds = post.log_odds[i].permute(rest, *dims)
        torch.testing.assert_close(log_odds, alone.log_odds, **EXACT)
        torch.testing.assert_close(post.log_evidence[i], alone.log_evidence.sum(), **EXACT)
        for counts, expected in zip(post.transitions, alone.transitions, strict=True):
            torch.testing.assert_close(counts[i], expected.sum(0), **EXACT)


def test_single_precision_is_close_to_double_and_stays_finite() -> None:
    llr = torch.cat([random_llr(10, 30), random_llr(10, 30, scale=1e4)]).float()
    laws = both(1e-6, 50.0)
    single = grid_posterior(llr, *laws, pairwise=True, log_evidence=True)
    double = grid_posterior(llr.double(), *laws, log_evidence=True)
    assert single.log_odds.dtype == single.messages.dtype == torch.float32
    torch.testing.assert_close(single.extrinsic.double(), double.extrinsic, rtol=1e-5, atol=1e-4)
    assert bool(torch.isfinite(single.transitions.row).all())


@pytest.mark.usefixtures("no_type_checks")
def test_refuses_bad_input() -> None:
    laws, llr = both(0.3, 2.0), torch.zeros(3, 4)
    with pytest.raises(ShapeError, match="rows and columns"):
        grid_posterior(llr[:0], *laws)
    for dims in ((-1, -1), (-3, -1), (0, 1)):
        with pytest.raises(InvalidArgumentError, match="two of -2, -1"):
            grid_posterior(llr, *laws, dims=dims)
    with pytest.raises(ShapeError, match="start messages"):
        grid_posterior(llr, *laws, start=llr.T)
    with pytest.raises(InvalidArgumentError, match="one stationary density"):
        grid_posterior(llr, laws[0], ChainLaw.stationary(0.2, 2.0))
    with pytest.raises(InvalidArgumentError, match="schedule"):
        grid_posterior(llr, *laws, sweeps=0)
    with pytest.raises(InvalidArgumentError, match="schedule"):
        grid_posterior(llr, *laws, damping=1.0)
    with pytest.raises(NumericalError, match="not all finite"):
        grid_posterior(llr / 0, *laws)
