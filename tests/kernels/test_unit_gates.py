"""Shared unit gates against enumeration of every state, and their limits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.distributions import IndependentSupport, MarkovChainSupport, SupportDistribution
from pyro_turbovbi.errors import NumericalError
from pyro_turbovbi.kernels import GatedWeight, UnitGatesPosterior, unit_gates_posterior
from pyro_turbovbi.kernels.unit_gates import CERTAIN
from tests.oracles.enumeration import all_states


class Weight(NamedTuple):
    """A weight under test: its support prior, evidence, and the groups that gate it."""

    law: SupportDistribution
    llr: Tensor
    closed: Tensor
    rows: int | None
    columns: int | None
    relief: Tensor | None = None

    def gated(self) -> GatedWeight:
        solve = self.law.row_posterior
        return GatedWeight(self.llr, self.closed, self.rows, self.columns, solve, self.relief)


class Exact(NamedTuple):
    gates: list[Tensor]
    active: list[Tensor]
    log_evidence: float


def weight(
    shape: tuple[int, int, int],
    rows: int | None,
    columns: int | None,
    *,
    scale: float = 2.0,
    chain: bool = True,
    seed: int = 0,
    relief: bool = False,
) -> Weight:
    generator = torch.Generator().manual_seed(seed)
    llr = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    closed = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    event = torch.Size(shape)
    law = MarkovChainSupport(event, 0.2, 0.3) if chain else IndependentSupport(event, 0.3)
    extra = torch.rand(shape, generator=generator, dtype=torch.float64) if relief else None
    return Weight(law, llr, closed, rows, columns, extra)


def enumerate_all(weights: Sequence[Weight], priors: Sequence[Tensor]) -> Exact:
    """Sum over all gates; given them weights are independent, and each is summed over states."""
    sizes = [len(prior) for prior in priors]
    total = torch.zeros((), dtype=torch.float64)
    gates = [torch.zeros(size, dtype=torch.float64) for size in sizes]
    active = [torch.zeros(w.llr.shape, dtype=torch.float64) for w in weights]
    for flat in itertools.product((0.0, 1.0), repeat=sum(sizes)):
        state = torch.tensor(flat, dtype=torch.float64).split(sizes)
        mass = torch.tensor(1.0, dtype=torch.float64)
        for z, prior in zip(state, priors, strict=True):
            mass = mass * torch.where(z > 0, prior.sigmoid(), (-prior).sigmoid()).prod()
        probs = []
        for w in weights:
            evidence, prob = given_gates(w, state)
            mass = mass * evidence
            probs.append(prob)
        total += mass
        for sums, z in zip(gates, state, strict=True):
            sums += mass * z
        for sums, prob in zip(active, probs, strict=True):
            sums += mass * prob
    return Exact([g / total for g in gates], [a / total for a in active], math.log(total))


def given_gates(w: Weight, state: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Evidence and P(active) of one weight whose gates are known."""
    shape = w.llr.shape
    row = state[w.rows] if w.rows is not None else torch.ones(shape[0]).double()
    column = state[w.columns] if w.columns is not None else torch.ones(shape[1]).double()
    both = (row[:, None] * column).unsqueeze(-1).expand(shape)
    states = all_states(w.llr.numel()).view(-1, *shape)
    scores = w.law.log_prob(states) + (states * both * w.llr).sum((1, 2, 3))
    relief = 0.0 if w.relief is None else ((1 - row[:, None, None]) * w.relief).sum()
    evidence = (scores.logsumexp(0) + ((1 - both) * w.closed).sum() + relief).exp()
    weights = (scores - scores.logsumexp(0)).exp()
    return evidence, (weights[:, None, None, None] * states).sum(0) * both


def probs(found: UnitGatesPosterior, weights: Sequence[Weight]) -> list[Tensor]:
    """P(active) of every element by the messages to it and its own evidence."""
    result = []
    for element, w in zip(found.elements, weights, strict=True):
        opened = element.open_log_odds.sigmoid()
        on = opened * element.extrinsic.sigmoid() * w.llr.exp()
        off = opened * (-element.extrinsic).sigmoid() + (1 - opened) * w.closed.exp()
        result.append(on / (on + off))
    return result


def solve(weights: Sequence[Weight], priors: Sequence[Tensor], sweeps: int) -> UnitGatesPosterior:
    return unit_gates_posterior([w.gated() for w in weights], priors, sweeps=sweeps, damping=0.0)


def prior(*log_odds: float) -> Tensor:
    return torch.tensor(log_odds, dtype=torch.float64)


TREES = {
    "gated rows, chains": ([weight((2, 3, 1), 0, None)], [prior(0.3, -1.0)]),
    "gated rows, several elements a pair": ([weight((2, 2, 2), 0, None)], [prior(0.3, -1.0)]),
    "gated columns of one row": ([weight((1, 4, 1), None, 0)], [prior(0.3, -1.0, 0.0, 2.0)]),
    "both, one row": ([weight((1, 3, 1), 0, 1)], [prior(-0.5), prior(0.3, 1.0, -2.0)]),
    "independent pairs of several elements": (
        [weight((1, 2, 3), 0, 1, chain=False)], [prior(-0.5), prior(0.3, 1.0)],
    ),
    "no gates at all": ([weight((2, 3, 1), None, None)], [prior(0.0)]),
    "incoming and outgoing weights of units": (
        [weight((2, 3, 1), 0, None), weight((1, 2, 1), None, 0, seed=1)], [prior(0.3, -1.0)],
    ),
    "relief for closed rows": (
        [weight((2, 2, 2), 0, None, relief=True), weight((1, 2, 1), None, 0, seed=1)],
        [prior(0.3, -1.0)],
    ),
    "relief for a closed row, gated columns": (
        [weight((1, 3, 1), 0, 1, relief=True)], [prior(-0.5), prior(0.3, 1.0, -2.0)],
    ),
    "relief, pairs of several elements": (
        [weight((1, 2, 3), 0, 1, chain=False, relief=True)], [prior(-0.5), prior(0.3, 1.0)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_trees_are_solved_exactly(name: str) -> None:
    weights, priors = TREES[name]
    found, exact = solve(weights, priors, sweeps=8), enumerate_all(weights, priors)
    for belief, gate in zip(found.gate_log_odds, exact.gates, strict=True):
        torch.testing.assert_close(belief.sigmoid(), gate, atol=1e-9, rtol=0.0)
    for ours, active in zip(probs(found, weights), exact.active, strict=True):
        torch.testing.assert_close(ours, active, atol=1e-9, rtol=0.0)
    assert float(found.log_evidence) == pytest.approx(exact.log_evidence, abs=1e-9)


def loopy(seed: int) -> tuple[list[Weight], list[Tensor]]:
    """Four units of five inputs: rows and columns are gated."""
    return [weight((4, 5, 1), 0, 1, seed=seed, chain=False, scale=1.5)], [
        prior(0.0, 0.0, 0.0, 0.0),
        prior(0.0, 0.0, 0.0, 0.0, 0.0),
    ]


def loopy_exact(weights: Sequence[Weight], priors: Sequence[Tensor]) -> Exact:
    """As `enumerate_all` for an independent support, whose elements need no enumeration."""
    (w,) = weights
    density = w.law.density
    inside = torch.log1p(density * torch.expm1(w.llr))
    total = torch.zeros((), dtype=torch.float64)
    gates = [torch.zeros_like(prior) for prior in priors]
    active = torch.zeros(w.llr.shape).double()
    given_open = (w.llr + torch.logit(density)).sigmoid()
    for flat in itertools.product((0.0, 1.0), repeat=9):
        z, v = torch.tensor(flat, dtype=torch.float64).split([4, 5])
        both = (z[:, None] * v).unsqueeze(-1)
        mass = (both * inside + (1 - both) * w.closed).sum().exp() / 2**9
        total += mass
        gates[0] += mass * z
        gates[1] += mass * v
        active += mass * both * given_open
    return Exact([g / total for g in gates], [active / total], math.log(total))


@pytest.mark.parametrize("seed", range(5))
def test_loops_leave_small_errors(seed: int) -> None:
    weights, priors = loopy(seed)
    found, exact = solve(weights, priors, sweeps=20), loopy_exact(weights, priors)
    for belief, gate in zip(found.gate_log_odds, exact.gates, strict=True):
        torch.testing.assert_close(belief.sigmoid(), gate, atol=0.002, rtol=0.0)
    torch.testing.assert_close(probs(found, weights)[0], exact.active[0], atol=0.002, rtol=0.0)
    assert float(found.log_evidence) == pytest.approx(exact.log_evidence, abs=0.005)


def error_without_cavities(seed: int) -> float:
    """Largest error of P(open) if a gate hears all its weights say, its own opinion included."""
    weights, priors = loopy(seed)
    exact = loopy_exact(weights, priors)
    (w,) = weights
    own = torch.log1p(w.law.density * torch.expm1(w.llr.squeeze(-1))) - w.closed.squeeze(-1)
    rows, columns = torch.zeros(4).double(), torch.zeros(5).double()
    for _ in range(20):
        rows = torch.log1p(columns.sigmoid() * torch.expm1(own)).sum(1)
        columns = torch.log1p(rows.sigmoid()[:, None] * torch.expm1(own)).sum(0)
    return max(
        float((belief.sigmoid() - gate).abs().max())
        for belief, gate in zip((rows, columns), exact.gates, strict=True)
    )


def test_without_cavities_gates_hear_themselves() -> None:
    assert max(error_without_cavities(seed) for seed in range(5)) > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_chains_with_several_elements_a_pair_leave_small_errors(seed: int) -> None:
    """Conv kernels: a chain along the rows, two elements of which share their column's gate."""
    weights, priors = [weight((2, 3, 2), 0, 1, seed=seed)], [prior(0.5, -0.5), prior(0.0, 1.0, 0.0)]
    found, exact = solve(weights, priors, sweeps=30), enumerate_all(weights, priors)
    for belief, gate in zip(found.gate_log_odds, exact.gates, strict=True):
        torch.testing.assert_close(belief.sigmoid(), gate, atol=0.08, rtol=0.0)
    torch.testing.assert_close(probs(found, weights)[0], exact.active[0], atol=0.08, rtol=0.0)


def test_gates_that_are_certainly_open_change_nothing() -> None:
    gated = weight((3, 4, 1), 0, 1)
    sure = [torch.full((3,), CERTAIN).double(), torch.full((4,), CERTAIN).double()]
    found = solve([gated], sure, sweeps=3)
    alone = gated.law.posterior(gated.llr)
    torch.testing.assert_close(probs(found, [gated])[0], alone.probs, atol=1e-9, rtol=0.0)
    assert float(found.log_evidence) == pytest.approx(float(alone.log_evidence), abs=1e-9)


def net_of(scale: float) -> tuple[list[Weight], list[Tensor]]:
    """Five inputs, four hidden units, two outputs; all elements say the same."""
    first, second = weight((4, 5, 1), 0, 1, chain=False), weight((2, 4, 1), None, 0, chain=False)
    same = [w._replace(llr=torch.full_like(w.llr, scale)) for w in (first, second)]
    flat = [w._replace(closed=torch.zeros_like(w.closed)) for w in same]
    return flat, [torch.zeros(4).double(), torch.zeros(5).double()]


def test_gates_close_on_nothing_and_open_for_one_strong_weight() -> None:
    weights, priors = net_of(-8.0)
    rows, columns = solve(weights, priors, sweeps=10).gate_log_odds
    assert bool((rows < 0).all())
    assert bool((columns < 0).all())
    weights[0].llr[1, 2] = 30.0
    rows, columns = solve(weights, priors, sweeps=10).gate_log_odds
    assert rows.argmax() == 1
    assert columns.argmax() == 2
    assert bool(rows[1] > 10)
    assert int((rows > 0).sum()) == int((columns > 0).sum()) == 1


def test_damping_and_a_warm_start_lead_to_the_same_beliefs() -> None:
    weights, priors = loopy(1)
    gated = [w.gated() for w in weights]
    direct = unit_gates_posterior(gated, priors, sweeps=40, damping=0.0)
    halves = unit_gates_posterior(gated, priors, sweeps=30, damping=0.5)
    halves = unit_gates_posterior(gated, priors, sweeps=30, damping=0.5, start=halves.messages)
    for one, other in zip(direct.gate_log_odds, halves.gate_log_odds, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("scale", [1e3, -1e3])
def test_extreme_evidence_stays_finite_in_single_precision(scale: float) -> None:
    weights, priors = net_of(scale)
    single = [
        GatedWeight(
            w.llr.float(),
            w.closed.float(),
            w.rows,
            w.columns,
            lambda u, w=w: w.law.row_posterior(u),
        )
        for w in weights
    ]
    found = unit_gates_posterior(single, [prior.float() for prior in priors])
    assert torch.isfinite(found.log_evidence)
    for element in found.elements:
        assert torch.isfinite(element.open_log_odds).all()
        assert torch.isfinite(element.extrinsic).all()


def test_evidence_that_is_not_finite_is_refused() -> None:
    weights, priors = loopy(0)
    weights[0].llr[0, 0] = torch.nan
    with pytest.raises(NumericalError, match="not all finite"):
        solve(weights, priors, sweeps=1)
