from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, NumericalError, ShapeError
from pyro_turbovbi.kernels import ChainLaw, chain_posterior, gated_posterior
from tests.oracles.enumeration import (
    all_states,
    enumerate_posterior,
    gated_log_joint,
    transition_counts,
)

EXACT = {"rtol": 1e-9, "atol": 1e-9}
EVERYTHING = {"pairwise": True, "log_evidence": True}
GATE, WITHIN = ChainLaw.stationary(0.3, 2.5), ChainLaw.stationary(0.2, 3.0)
BACKENDS = ["compiled", "scan", "torch"]
probability = st.floats(-8, -1e-9).map(lambda x: 10.0**x)


def random_llr(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def enumerated(llr: Tensor, gate: ChainLaw, within: ChainLaw) -> tuple[Tensor, ...]:
    """Log-odds of elements and gates, log-evidence, counts of gates and behind open gates."""
    rows, columns = llr.shape
    flat, gates = all_states(rows * columns), all_states(rows)
    states = flat.view(-1, rows, columns)
    joint = gated_log_joint(states, gates, gate, within)
    exact = enumerate_posterior(flat, joint.logsumexp(1), llr.flatten())
    scores = joint + (flat @ llr.flatten())[:, None]
    by_gates = scores.logsumexp(0) - exact.log_evidence
    opened = torch.where(gates.bool(), by_gates[:, None], -torch.inf).logsumexp(0)
    closed = torch.where(gates.bool(), -torch.inf, by_gates[:, None]).logsumexp(0)
    weights = (scores - exact.log_evidence).exp()
    behind = torch.zeros(2, 2, dtype=torch.float64)
    for k in range(rows):
        behind += transition_counts(states[:, k], weights @ gates[:, k])
    counts = transition_counts(gates, by_gates.exp())
    return exact.log_odds.view_as(llr), opened - closed, exact.log_evidence, counts, behind


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "compiled":
        pytest.importorskip("numba")
    return str(request.param)


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("scale", [2.0, 30.0])
def test_equals_enumeration(shape: tuple[int, int], scale: float, backend: str) -> None:
    llr = random_llr(*shape, scale=scale)
    log_odds, gates, evidence, counts, behind = enumerated(llr, GATE, WITHIN)
    post = gated_posterior(llr, GATE, WITHIN, **EVERYTHING, backend=backend)
    torch.testing.assert_close(post.log_odds, log_odds, **EXACT)
    torch.testing.assert_close(post.gate_log_odds, gates, **EXACT)
    torch.testing.assert_close(post.log_evidence, evidence, **EXACT)
    torch.testing.assert_close(post.transitions.gate, counts, **EXACT)
    torch.testing.assert_close(post.transitions.within, behind, **EXACT)


@given(probability, probability, probability, probability, st.integers(0, 10**6))
def test_any_law_equals_enumeration(a: float, b: float, c: float, d: float, seed: int) -> None:
    llr, gate, within = random_llr(3, 3, seed=seed), ChainLaw(a, b), ChainLaw(c, d)
    log_odds, gates, evidence, _, _ = enumerated(llr, gate, within)
    for name in ("auto", "torch"):
        post = gated_posterior(llr, gate, within, log_evidence=True, backend=name)
        torch.testing.assert_close(post.log_odds, log_odds, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(post.gate_log_odds, gates, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(post.log_evidence, evidence, rtol=1e-7, atol=1e-7)


def test_gates_of_columns_are_gates_of_rows_turned(backend: str) -> None:
    llr = random_llr(2, 40, 70)
    rows = gated_posterior(llr, GATE, WITHIN, **EVERYTHING, backend=backend)
    turned = llr.transpose(-1, -2)
    for given_llr in (turned, turned.contiguous()):
        columns = gated_posterior(
            given_llr, GATE, WITHIN, gate_dim=-1, dim=-2, **EVERYTHING, backend=backend
        )
        torch.testing.assert_close(columns.extrinsic.transpose(-1, -2), rows.extrinsic, **EXACT)
        torch.testing.assert_close(columns.gate_log_odds, rows.gate_log_odds, **EXACT)
        torch.testing.assert_close(columns.log_evidence, rows.log_evidence, **EXACT)
        for count, expected in zip(columns.transitions, rows.transitions, strict=True):
            torch.testing.assert_close(count, expected, **EXACT)


@pytest.mark.parametrize(("gate_dim", "dim"), [*itertools.permutations((-3, -2, -1), 2)])
def test_chains_of_further_dims_share_a_gate(gate_dim: int, dim: int, backend: str) -> None:
    llr = random_llr(2, 3, 4, 5)
    post = gated_posterior(
        llr, GATE, WITHIN, gate_dim=gate_dim, dim=dim, event_dims=3, **EVERYTHING, backend=backend
    )
    (rest,) = {-1, -2, -3} - {gate_dim, dim}
    for i in range(2):
        turned = llr[i].permute(gate_dim, rest, dim)
        chains = chain_posterior(turned, WITHIN, **EVERYTHING)
        gates = chain_posterior(chains.log_evidence.sum(1), GATE, **EVERYTHING)
        torch.testing.assert_close(post.gate_log_odds[i], gates.log_odds, **EXACT)
        torch.testing.assert_close(post.log_evidence[i], gates.log_evidence, **EXACT)
        torch.testing.assert_close(post.transitions.gate[i], gates.transitions, **EXACT)
        opened = gates.log_odds.sigmoid()[:, None, None]
        expected = torch.logit(opened * chains.log_odds.sigmoid(), eps=0)
        log_odds = post.log_odds[i].permute(gate_dim, rest, dim)
        torch.testing.assert_close(log_odds, expected, **EXACT)
        counts = (opened[..., None] * chains.transitions).sum((0, 1))
        torch.testing.assert_close(post.transitions.within[i], counts, **EXACT)


def test_gates_that_are_always_open_leave_plain_chains(backend: str) -> None:
    llr, always = random_llr(6, 8), ChainLaw(1.0 - 1e-13, 1e-13)
    post = gated_posterior(llr, always, WITHIN, log_evidence=True, backend=backend)
    chains = chain_posterior(llr, WITHIN, log_evidence=True, backend=backend)
    torch.testing.assert_close(post.extrinsic, chains.extrinsic, **EXACT)
    torch.testing.assert_close(post.log_evidence, chains.log_evidence.sum(), **EXACT)


def test_inactive_elements_close_their_gate_and_a_strong_one_opens_it(backend: str) -> None:
    llr = torch.full((5, 200), -3.0)
    post = gated_posterior(llr, GATE, WITHIN, backend=backend)
    assert float(post.gate_log_odds.max()) < -10
    llr[2, 17] = 500.0
    post = gated_posterior(llr, GATE, WITHIN, backend=backend)
    assert float(post.gate_log_odds[2]) > 100
    assert float(post.gate_log_odds[[0, 1, 3, 4]].max()) < -10
    assert float(post.log_odds[2, 17]) > 100


def test_extrinsic_does_not_depend_on_an_elements_own_evidence(backend: str) -> None:
    llr = random_llr(6, 9)
    before = gated_posterior(llr, GATE, WITHIN, backend=backend)
    for value in (-1e4, -5.0, 7.0, 1e4):
        changed = llr.clone()
        changed[3, 4] = value
        after = gated_posterior(changed, GATE, WITHIN, backend=backend)
        torch.testing.assert_close(after.extrinsic[3, 4], before.extrinsic[3, 4], rtol=0, atol=1e-7)
        others = (after.extrinsic - before.extrinsic).abs()
        assert float(others[3, 3]) > 1e-3


@pytest.mark.parametrize("law", [(1e-8, 1e-8), (1e-8, 1 - 1e-8), (1 - 1e-8, 1e-8)])
@pytest.mark.parametrize("scale", [2.0, 1e4])
def test_single_precision_is_close_to_double_and_stays_finite(
    law: tuple[float, float], scale: float, backend: str
) -> None:
    llr = random_llr(30, 50, scale=scale).float()
    single = gated_posterior(llr, ChainLaw(*law), WITHIN, **EVERYTHING, backend=backend)
    double = gated_posterior(llr.double(), ChainLaw(*law), WITHIN, log_evidence=True)
    assert single.extrinsic.dtype == single.log_evidence.dtype == torch.float32
    torch.testing.assert_close(single.extrinsic.double(), double.extrinsic, rtol=1e-6, atol=1e-4)
    assert bool(torch.isfinite(single.transitions.within).all())
    assert bool(torch.isfinite(single.transitions.gate).all())


def test_writes_where_it_is_told(backend: str) -> None:
    llr = random_llr(5, 6).float()
    old = gated_posterior(torch.zeros_like(llr), GATE, WITHIN)
    new = gated_posterior(llr, GATE, WITHIN, out=old.extrinsic, backend=backend)
    assert new.extrinsic is old.extrinsic
    fresh = gated_posterior(llr, GATE, WITHIN, backend=backend)
    torch.testing.assert_close(new.extrinsic, fresh.extrinsic)


def test_nothing_is_computed_unasked() -> None:
    post = gated_posterior(random_llr(3, 4), GATE, WITHIN)
    assert post.log_evidence is post.transitions is None


def test_refuses_bad_input() -> None:
    llr = torch.zeros(3, 4)
    with pytest.raises(ShapeError, match="at least 2 dims"):
        gated_posterior(llr[:0], GATE, WITHIN)
    for gate_dim, dim in ((-2, -2), (-3, -1), (-2, 1)):
        with pytest.raises(InvalidArgumentError, match="two of -2, -1"):
            gated_posterior(llr[None], GATE, WITHIN, gate_dim=gate_dim, dim=dim)
    with pytest.raises(NumericalError, match="not all finite"):
        gated_posterior(llr * math.nan, GATE, WITHIN)
    with pytest.raises(ShapeError, match="overwritten"):
        gated_posterior(llr, GATE, WITHIN, out=llr.double())
