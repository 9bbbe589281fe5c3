"""Module B: what is exchanged is extrinsic, and counted once."""

from __future__ import annotations

import pytest
import torch

from pyro_turbovbi import supports
from pyro_turbovbi.engines.turbo.module_b import ModuleB
from pyro_turbovbi.errors import NumericalError
from tests.oracles.enumeration import all_states, chain_log_prior, enumerate_posterior


def exchanged(
    support: supports.Support, llr: torch.Tensor, times: int = 1, damping: float = 0.0
) -> torch.Tensor:
    distribution = support.distribution(llr.shape)
    module = ModuleB(distribution, damping=damping)
    prior_log_odds = torch.full_like(llr, float(distribution.prior_log_odds))
    for _ in range(times):
        module.exchange(llr, prior_log_odds)
    return prior_log_odds


def test_independent_prior_is_never_moved_by_evidence() -> None:
    """Were the posterior sent instead, repeated exchanges would add the same evidence again and
    again.
    """
    llr = torch.linspace(-5, 5, 11).double()
    pi = exchanged(supports.Independent(0.2), llr, times=5)
    torch.testing.assert_close(pi.sigmoid(), torch.full_like(pi, 0.2), rtol=1e-10, atol=0)


def test_chain_exchange_equals_enumeration_and_is_idempotent() -> None:
    torch.manual_seed(1)
    llr = torch.randn(2, 8).double() * 2
    support = supports.Chain(0.3, mean_run=3.0)
    p10 = 1 / 3
    p01 = p10 * 0.3 / 0.7
    states = all_states(8)
    exact = enumerate_posterior(states, chain_log_prior(states, p01, p10), llr)
    for times in (1, 4):
        pi = exchanged(support, llr, times)
        torch.testing.assert_close(pi, exact.log_odds - llr, rtol=0, atol=1e-10)


def test_extrinsic_of_an_element_ignores_its_own_evidence() -> None:
    torch.manual_seed(2)
    llr = torch.randn(1, 9).double()
    changed = llr.clone()
    changed[0, 4] += 7.0
    for support in (supports.Chain(0.2, 2.0), supports.Independent(0.2)):
        before, after = exchanged(support, llr), exchanged(support, changed)
        assert float(after[0, 4]) == pytest.approx(float(before[0, 4]), abs=1e-10)
    chain = supports.Chain(0.2, 2.0)
    assert exchanged(chain, changed)[0, 5] > exchanged(chain, llr)[0, 5] + 0.1


def test_damping_keeps_a_share_of_the_old_message() -> None:
    torch.manual_seed(3)
    llr = torch.randn(1, 6).double()
    support = supports.Chain(0.2, 2.0)
    start = float(support.distribution(llr.shape).prior_log_odds)
    full, half = exchanged(support, llr), exchanged(support, llr, damping=0.5)
    torch.testing.assert_close(half, 0.5 * start + 0.5 * full, rtol=0, atol=1e-10)


def test_uncoupled_chain_and_grid_are_the_independent_prior() -> None:
    torch.manual_seed(4)
    llr = torch.randn(5, 7).double()
    run = 1 / (1 - 0.3)
    expected = exchanged(supports.Independent(0.3), llr)
    for support in (
        supports.Chain(0.3, run),
        supports.Chain(0.3, run, dim=0),
        supports.Grid(0.3, (run, run)),
    ):
        torch.testing.assert_close(exchanged(support, llr), expected, rtol=0, atol=1e-9)


def test_learning_recovers_the_density() -> None:
    """EM on supports that are all but observed: the density goes to the observed share."""
    torch.manual_seed(5)
    truth = torch.rand(40, 50) < 0.3
    llr = torch.where(truth, 30.0, -30.0).double()
    module = ModuleB(supports.Independent(0.05).distribution(llr.shape), damping=0.0)
    module.exchange(llr, torch.zeros_like(llr), learn=True)
    assert float(module.distribution.density) == pytest.approx(
        float(truth.double().mean()), abs=1e-6
    )


@pytest.mark.parametrize(
    "support", [supports.Chain(0.2, 2.0), supports.Grid(0.2, 2.0), supports.Gated()]
)
def test_exchanges_after_the_first_reuse_its_memory(support: supports.Support) -> None:
    torch.manual_seed(6)
    llr, pi = torch.randn(6, 7), torch.zeros(6, 7)
    module = ModuleB(support.distribution(llr.shape), damping=0.5)
    first, second = module.exchange(llr, pi), module.exchange(llr + 1, pi)
    for before, after in zip(first[:3], second[:3], strict=True):
        assert before.data_ptr() == after.data_ptr()


def test_a_ratio_that_is_not_finite_names_the_weight_and_changes_nothing() -> None:
    llr, pi = torch.zeros(2, 3), torch.zeros(2, 3)
    module = ModuleB(supports.Chain().distribution(llr.shape), damping=0.5, site="0.weight")
    llr[1, 2] = torch.inf
    with pytest.raises(NumericalError, match=r"site '0\.weight'.*1 of 6 elements"):
        module.exchange(llr, pi)
    assert not bool(pi.any())
