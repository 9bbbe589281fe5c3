from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.kernels import ChainLaw, chain_messages, reference
from tests.oracles.enumeration import all_states, chain_log_prior, enumerate_posterior
from tests.oracles.forward_backward import forward_backward

EXACT = {"rtol": 1e-10, "atol": 1e-10}
LAW = ChainLaw.stationary(0.1, 4.0)


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_messages_are_the_posterior_without_own_evidence_and_prior(length: int) -> None:
    llr, states = random(length, 4), all_states(length)
    exact = enumerate_posterior(states, chain_log_prior(states, *LAW), llr.T)
    solved = chain_messages(llr, LAW, log_evidence=True)
    torch.testing.assert_close(solved.log_odds + LAW.log_odds + llr, exact.log_odds.T, **EXACT)
    torch.testing.assert_close(solved.log_evidence, exact.log_evidence, **EXACT)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_an_update_sums_the_evidence_and_damps(dim: int) -> None:
    llr, other, message = (random(3, 4, 5, seed=seed) for seed in range(3))
    old = message.clone()
    summary = reference.update_messages(
        llr, other, message, LAW, dim, damping=0.25, residual=True, log_evidence=True
    )
    chains = (llr + other).movedim(dim, -1)
    expected = torch.empty_like(chains)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in chains.shape[:2])).tolist():
        here = chains[tuple(index)]
        log_odds, evidence = forward_backward(here, *LAW)
        expected[tuple(index)] = log_odds - here - LAW.log_odds
        torch.testing.assert_close(summary.log_evidence[tuple(index)], evidence, **EXACT)
    expected = 0.75 * expected.movedim(-1, dim) + 0.25 * old
    torch.testing.assert_close(message, expected, **EXACT)
    assert summary.residual == pytest.approx(float((expected - old).abs().max()))
    assert summary.transitions is None


def test_nothing_is_computed_unasked() -> None:
    summary = reference.update_messages(random(5), None, torch.empty(5).double(), LAW, 0)
    assert summary.log_evidence is summary.transitions is None
    assert math.isnan(summary.residual)


def test_element_evidence_adds_what_all_sources_say() -> None:
    llr, row, column = (random(2, 12, seed=seed) for seed in range(3))
    odds = (llr + row + column).exp()
    expected = (1 - LAW.density + LAW.density * odds).log().sum(1)
    total = reference.element_evidence(llr, row, column, LAW.log_odds)
    torch.testing.assert_close(total, expected, **EXACT)
