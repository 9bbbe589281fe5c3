from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_turbovbi.kernels import ChainLaw, reference, scan
from tests.oracles.enumeration import (
    all_states,
    chain_log_prior,
    enumerate_posterior,
    transition_counts,
)

EXACT = {"rtol": 1e-10, "atol": 1e-10}
EVERYTHING = {"residual": True, "pairwise": True, "log_evidence": True}
LAWS = [
    ChainLaw.stationary(0.05, 5.0),
    ChainLaw(0.95, 0.9),
    ChainLaw(1e-8, 1e-8),
    ChainLaw(1 - 1e-8, 1 - 1e-8),
    ChainLaw(1e-8, 1 - 1e-8),
    ChainLaw(1 - 1e-8, 1e-8),
    ChainLaw(1e-30, 1e-20),
]

probabilities = st.one_of(
    st.floats(-8.0, -1e-3).map(lambda x: 10.0**x),
    st.floats(-8.0, -1e-3).map(lambda x: 1.0 - 10.0**x),
)


def random(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def assert_equals_reference(
    llr: Tensor,
    other: Tensor | None,
    message: Tensor,
    law: ChainLaw,
    dim: int,
    *,
    tolerance: float = 1e-10,
    **options: Any,
) -> None:
    """Messages to within the tolerance; sums over a chain, small counts included, relative to it.

    The reference gets the same numbers in double precision.
    """
    expected = message.double().clone()
    theirs = reference.update_messages(
        llr.double(),
        None if other is None else other.double(),
        expected,
        law,
        dim,
        **options,
        **EVERYTHING,
    )
    ours = scan.update_messages(llr, other, message, law, dim, **options, **EVERYTHING)
    torch.testing.assert_close(message.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(ours.log_evidence, theirs.log_evidence, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(ours.transitions, theirs.transitions, rtol=1e-9, atol=0)
    assert ours.residual == pytest.approx(theirs.residual, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("length", range(1, 13))
def test_equals_enumeration(length: int, law: ChainLaw) -> None:
    llr, states = random(3, length, seed=length), all_states(length)
    exact = enumerate_posterior(states, chain_log_prior(states, *law), llr)
    message = torch.empty_like(llr)
    summary = scan.update_messages(
        llr, None, message, law, -1, offset=law.log_odds, log_evidence=True, pairwise=True
    )
    torch.testing.assert_close(message + llr, exact.log_odds, **EXACT)
    torch.testing.assert_close(summary.log_evidence, exact.log_evidence, **EXACT)
    counts = transition_counts(states, exact.weights)
    torch.testing.assert_close(summary.transitions, counts, **EXACT)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("scale", [1e-3, 3.0, 1e4])
@pytest.mark.parametrize("shape", [(1,), (64,), (65,), (3, 129), (2, 700, 3), (2, 3, 70, 9)])
def test_equals_the_reference_along_every_dim(
    shape: tuple[int, ...], scale: float, law: ChainLaw
) -> None:
    llr, other, message = (random(*shape, seed=i, scale=x) for i, x in enumerate((scale, 1.0, 1.0)))
    for dim in range(len(shape)):
        assert_equals_reference(llr, other, message.clone(), law, dim)


@settings(max_examples=60)
@given(
    p01=probabilities,
    p10=probabilities,
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    damping=st.sampled_from([0.0, 0.3]),
    offset=st.floats(-20.0, 20.0),
    has_other=st.booleans(),
    double=st.booleans(),
    data=st.data(),
)
def test_random_laws_shapes_and_options(
    p01: float,
    p10: float,
    shape: list[int],
    scale: float,
    damping: float,
    offset: float,
    has_other: bool,
    double: bool,
    data: st.DataObject,
) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    dtype = torch.float64 if double else torch.float32
    llr, other, message = (
        random(*shape, seed=sum(shape) + i, scale=x).to(dtype)
        for i, x in enumerate((scale, 2.0, 1.0))
    )
    assert_equals_reference(
        llr,
        other if has_other else None,
        message,
        ChainLaw(p01, p10),
        dim,
        tolerance=1e-10 if double else 1e-5,
        damping=damping,
        offset=offset,
    )


def test_pieces_and_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    law, llr = LAWS[0], random(3, 150, 5)
    whole = torch.empty_like(llr)
    expected = scan.update_messages(llr, None, whole, law, 1, pairwise=True, log_evidence=True)
    for block, piece in [(1, 1), (2, 7), (8, 16), (32, 200), (64, 64), (256, 300), (256, 10**6)]:
        monkeypatch.setattr(scan, "_BLOCK", block)
        monkeypatch.setattr(scan, "_PIECE", piece)
        message = torch.empty_like(llr)
        summary = scan.update_messages(llr, None, message, law, 1, pairwise=True, log_evidence=True)
        torch.testing.assert_close(message, whole, **EXACT)
        torch.testing.assert_close(summary.log_evidence, expected.log_evidence, **EXACT)
        torch.testing.assert_close(summary.transitions, expected.transitions, **EXACT)


@pytest.mark.parametrize("law", [LAWS[0], LAWS[2], LAWS[3]])
def test_long_chains(law: ChainLaw) -> None:
    llr = random(100_000, scale=0.3).float()
    exact = torch.empty(100_000, dtype=torch.float64)
    theirs = reference.update_messages(llr.double(), None, exact, law, 0, log_evidence=True)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        message = torch.empty(100_000, dtype=dtype)
        ours = scan.update_messages(llr.to(dtype), None, message, law, 0, log_evidence=True)
        torch.testing.assert_close(message.double(), exact, rtol=0, atol=tolerance)
        torch.testing.assert_close(ours.log_evidence, theirs.log_evidence, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("law", LAWS)
def test_extreme_evidence_of_changing_sign(law: ChainLaw) -> None:
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 0.0]).double().repeat(30)
    for scale in (199.0, 201.0, 1e4):
        llr = scale * signs
        assert_equals_reference(llr, None, torch.zeros_like(llr), law, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_storage_in_half_precision(dtype: torch.dtype) -> None:
    llr, message = random(4, 90).to(dtype), torch.empty(4, 90, dtype=dtype)
    expected = torch.empty(4, 90, dtype=torch.float64)
    reference.update_messages(llr.double(), None, expected, LAWS[0], 1)
    scan.update_messages(llr, None, message, LAWS[0], 1)
    torch.testing.assert_close(message, expected.to(dtype))


def test_nothing_is_computed_unasked() -> None:
    summary = scan.update_messages(random(500), None, torch.empty(500).double(), LAWS[0], 0)
    assert summary.log_evidence is summary.transitions is None
    assert math.isnan(summary.residual)


def test_leaves_the_evidence_alone() -> None:
    llr, other = random(3, 80), random(3, 80, seed=1)
    before = [llr.clone(), other.clone()]
    scan.update_messages(llr, other, torch.zeros_like(llr), LAWS[0], 1, damping=0.5, **EVERYTHING)
    assert torch.equal(llr, before[0])
    assert torch.equal(other, before[1])


def test_the_number_of_operations_is_logarithmic_in_the_length() -> None:
    counts = []
    for length in (2**10, 2**16):
        llr = random(length)
        with torch.profiler.profile() as profile:
            scan.update_messages(llr, None, torch.empty_like(llr), LAWS[0], 0)
        counts.append(sum(event.count for event in profile.key_averages()))
    assert counts[1] < 2 * counts[0]
