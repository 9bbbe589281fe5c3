from __future__ import annotations

import math
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_turbovbi.errors import NumericalError
from pyro_turbovbi.kernels import (
    ChainLaw,
    chain_posterior,
    grid_posterior,
    reference,
)
from tests.oracles.enumeration import (
    all_states,
    chain_log_prior,
    enumerate_posterior,
    transition_counts,
)

pytest.importorskip("numba")
from numba.core.runtime import _nrt_python as nrt

from pyro_turbovbi.kernels import compiled

EXACT = {"rtol": 1e-10, "atol": 1e-10}
LAWS = [
    ChainLaw.stationary(0.05, 5.0),
    ChainLaw(0.95, 0.9),
    ChainLaw(1e-8, 1e-8),
    ChainLaw(1 - 1e-8, 1 - 1e-8),
    ChainLaw(1e-8, 1 - 1e-8),
    ChainLaw(0.5, 1e-8),
]
EVERYTHING = {"pairwise": True, "log_evidence": True}

probabilities = st.one_of(
    st.floats(-8.0, -1e-3).map(lambda x: 10.0**x),
    st.floats(-8.0, -1e-3).map(lambda x: 1.0 - 10.0**x),
)
scales = st.sampled_from([1e-3, 1.0, 30.0, 1e4])


def random_llr(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def assert_chains_agree(llr: Tensor, law: ChainLaw, dim: int, *, tolerance: float = 1e-10) -> None:
    """Both back ends on the same chains; sums over a chain may differ by their own rounding."""
    ours, theirs = (
        chain_posterior(llr, law, dim=dim, backend=name, **EVERYTHING)
        for name in ("compiled", "torch")
    )
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(ours.log_odds, theirs.log_odds, **close)
    torch.testing.assert_close(ours.extrinsic, theirs.extrinsic, **close)
    torch.testing.assert_close(ours.log_evidence, theirs.log_evidence, **close)
    torch.testing.assert_close(ours.transitions, theirs.transitions, **close)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("length", range(1, 13))
def test_equals_enumeration_in_both_dims(length: int, law: ChainLaw) -> None:
    llr, states = random_llr(3, length, seed=length), all_states(length)
    exact = enumerate_posterior(states, chain_log_prior(states, *law), llr)
    counts = transition_counts(states, exact.weights)
    for view, dim in ((llr, -1), (llr.T.contiguous(), 0)):
        post = chain_posterior(view, law, dim=dim, backend="compiled", **EVERYTHING)
        torch.testing.assert_close(post.log_odds.movedim(dim, -1), exact.log_odds, **EXACT)
        torch.testing.assert_close(post.log_evidence, exact.log_evidence, **EXACT)
        torch.testing.assert_close(post.transitions, counts, **EXACT)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    "shape",
    # one lane, a full set of lanes and one more; one piece of a chain, and several with a rest
    [(1, 1), (1, 700), (65, 64), (64, 249), (130, 248), (3, 1001), (2, 5, 300), (2, 3, 70, 9)],
)
def test_equals_the_reference_along_every_dim(shape: tuple[int, ...], law: ChainLaw) -> None:
    llr = random_llr(*shape, seed=len(shape))
    for dim in range(len(shape)):
        assert_chains_agree(llr, law, dim)


@settings(max_examples=60, deadline=None)
@given(
    p01=probabilities,
    p10=probabilities,
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    data=st.data(),
    scale=scales,
    double=st.booleans(),
)
def test_random_laws_shapes_and_strides(
    p01: float, p10: float, shape: list[int], data: st.DataObject, scale: float, double: bool
) -> None:
    steps = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
    order = data.draw(st.permutations(range(len(shape))))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    wide = [size * step for size, step in zip(shape, steps, strict=True)]
    llr = random_llr(*wide, seed=sum(shape), scale=scale).permute(*order)
    llr = llr[tuple(slice(None, None, steps[axis]) for axis in order)]
    if not double:
        llr = llr.float()
    assert_chains_agree(llr, ChainLaw(p01, p10), dim, tolerance=1e-9 if double else 1e-5)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shape", [(100_000,), (100_000, 2)])
def test_long_chains_in_single_precision(shape: tuple[int, ...], law: ChainLaw) -> None:
    llr = random_llr(*shape, seed=3).float()
    single = chain_posterior(llr, law, dim=0, backend="compiled", log_evidence=True)
    double = chain_posterior(llr.double(), law, dim=0, backend="torch", log_evidence=True)
    torch.testing.assert_close(single.extrinsic.double(), double.extrinsic, rtol=0, atol=1e-4)
    evidence = double.log_evidence
    torch.testing.assert_close(single.log_evidence.double(), evidence, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overwhelming_evidence(size: float, dtype: torch.dtype) -> None:
    llr = torch.full((70, 300), size, dtype=dtype)
    llr[::3, ::7] *= -1
    for law in LAWS:
        for dim in (0, 1):
            assert_chains_agree(llr, law, dim, tolerance=1e-10 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("damping", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(1, 1), (7, 90), (2, 33, 300), (2, 2, 5, 4)])
def test_grids_equal_the_reference(shape: tuple[int, ...], damping: float) -> None:
    row, column = ChainLaw.stationary(0.05, 5.0), ChainLaw.stationary(0.05, 3.0)
    llr = random_llr(*shape)
    start = random_llr(*shape, seed=1)
    for options in ({}, {"start": start}, {"tolerance": 1e-2}):
        ours, theirs = (
            grid_posterior(
                llr, row, column, sweeps=9, damping=damping, backend=name, **options, **EVERYTHING
            )
            for name in ("compiled", "torch")
        )
        assert ours.sweeps == theirs.sweeps
        assert ours.residual == pytest.approx(theirs.residual, rel=1e-8, abs=1e-12)
        for ours_part, theirs_part in (
            (ours.log_odds, theirs.log_odds),
            (ours.extrinsic, theirs.extrinsic),
            (ours.log_evidence, theirs.log_evidence),
            (ours.messages, theirs.messages),
            *zip(ours.transitions, theirs.transitions, strict=True),
        ):
            torch.testing.assert_close(ours_part, theirs_part, **EXACT)


def test_a_grid_in_single_precision_is_close_to_double() -> None:
    law = ChainLaw.stationary(1e-6, 50.0)
    llr = torch.cat([random_llr(40, 300), random_llr(40, 300, scale=1e4)]).float()
    single = grid_posterior(llr, law, law, sweeps=6, backend="compiled")
    double = grid_posterior(llr.double(), law, law, sweeps=6, backend="torch")
    torch.testing.assert_close(single.extrinsic.double(), double.extrinsic, rtol=0, atol=1e-4)


def test_does_not_depend_on_the_number_of_threads() -> None:
    law, llr = LAWS[0], random_llr(2, 300, 400).float()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        chains = [chain_posterior(llr, law, dim=dim, **EVERYTHING) for dim in range(3)]
        grid = grid_posterior(llr, law, law, **EVERYTHING)
        torch.set_num_threads(3)
        for dim, alone in enumerate(chains):
            together = chain_posterior(llr, law, dim=dim, **EVERYTHING)
            for a, b in zip(alone, together, strict=True):
                assert torch.equal(a, b)
        together = grid_posterior(llr, law, law, **EVERYTHING)
        assert torch.equal(grid.log_odds, together.log_odds)
        assert torch.equal(grid.log_evidence, together.log_evidence)
        assert grid.residual == together.residual
    finally:
        torch.set_num_threads(threads)


def test_leaves_its_inputs_alone() -> None:
    llr, start = random_llr(20, 30), random_llr(20, 30)
    before = [tensor.clone() for tensor in (llr, start)]
    grid_posterior(llr, LAWS[0], LAWS[0], start=start, backend="compiled")
    chain_posterior(llr, LAWS[0], backend="compiled")
    for tensor, copy in zip((llr, start), before, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_finite(bad: float) -> None:
    llr = torch.zeros(4, 5)
    llr[2, 3] = bad
    with pytest.raises(NumericalError, match="1 of 20 elements"):
        chain_posterior(llr, LAWS[0], backend="compiled")
    with pytest.raises(NumericalError, match="1 of 20 elements"):
        grid_posterior(llr, LAWS[0], LAWS[0], backend="compiled")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_element_evidence_equals_the_reference(dtype: torch.dtype) -> None:
    tensors = [random_llr(3, 130, seed=seed, scale=100.0).to(dtype) for seed in range(3)]
    for prior in (-40.0, -3.0, 0.0, 20.0):
        expected = reference.element_evidence(*tensors, prior)
        torch.testing.assert_close(compiled.element_evidence(*tensors, prior), expected, **EXACT)


@pytest.mark.parametrize("damping", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_offset_is_added_before_damping(damping: float, dtype: torch.dtype) -> None:
    llr, old = random_llr(70, 300).to(dtype), random_llr(70, 300, seed=1).to(dtype)
    for dim in (0, 1):
        plain, shifted = old.clone(), old.clone()
        reference.update_messages(llr, None, plain, LAWS[0], dim, damping=damping)
        compiled.update_messages(llr, None, shifted, LAWS[0], dim, damping=damping, offset=-2.5)
        expected = plain - (1 - damping) * 2.5
        close = 1e-10 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(shifted, expected, rtol=close, atol=close)


def gated(llr: Tensor, message: Tensor, gate: Tensor, dim: int) -> Tensor:
    """The oracle of `gate_messages`: its formulae, term by term."""
    softplus = torch.nn.Softplus(threshold=40.0)
    x, evidence = message.double(), llr.double()
    cavity = gate.unsqueeze(dim) - (softplus(x + evidence) - softplus(x))
    return -torch.stack([-cavity, -x, -cavity - x]).logsumexp(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (3000,), (70, 300), (2, 3, 70, 9)])
def test_gated_messages_equal_their_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for evidence in (0.0, 3.0, 3e3):
        for scale, wide in ((1.0, 3.0), (200.0, 3e8)):
            llr = random_llr(*shape, scale=evidence).to(dtype)
            message = random_llr(*shape, seed=1, scale=scale).clamp(-700, 700).to(dtype)
            for dim in range(len(shape)):
                gate = random_llr(*shape, seed=2, scale=wide).select(dim, 0).clamp(-1e9, 1e9)
                expected = gated(llr, message, gate, dim)
                ours = message.clone()
                compiled.gate_messages(llr, ours, gate, dim)
                relative = 1e-14 if dtype == torch.float64 else 1e-6
                torch.testing.assert_close(ours.double(), expected, rtol=relative, atol=1e-5)
                small = expected.abs() < 1e3
                absolute = 1e-9 if dtype == torch.float64 and wide < 1e4 else 1e-4
                torch.testing.assert_close(
                    ours.double()[small], expected[small], rtol=relative, atol=absolute
                )


def test_a_gate_far_open_leaves_messages_alone_and_one_closed_adds_to_them() -> None:
    llr, message = random_llr(4, 5), random_llr(4, 5, seed=1)
    for gate in (1e9, -1e9):
        ours = message.clone()
        compiled.gate_messages(llr, ours, torch.full((4,), gate, dtype=torch.float64), 1)
        assert bool(torch.isfinite(ours).all())
        if gate > 0:
            torch.testing.assert_close(ours, message, rtol=0, atol=1e-12)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("dim", [0, 1])
def test_small_counts_keep_their_relative_precision(law: ChainLaw, dim: int) -> None:
    llr = random_llr(67, 90) - 6.0
    ours, theirs = (
        module.update_messages(llr, None, torch.empty_like(llr), law, dim, **EVERYTHING)
        for module in (compiled, reference)
    )
    torch.testing.assert_close(ours.transitions, theirs.transitions, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("length", [1, 5120, 5121, 100_000])
def test_pieces_of_long_chains_in_double_precision(length: int, law: ChainLaw) -> None:
    llr = random_llr(length, 3).clamp(-6, 6)
    llr[::7] = 1e4
    llr[::5] = -1e4
    ours, theirs = torch.empty_like(llr), torch.empty_like(llr)
    one = compiled.update_messages(llr, None, ours, law, 0, **EVERYTHING)
    other = reference.update_messages(llr, None, theirs, law, 0, **EVERYTHING)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(one.log_evidence, other.log_evidence, rtol=1e-12, atol=1e-8)
    torch.testing.assert_close(one.transitions, other.transitions, rtol=1e-9, atol=1e-9)


def solve_everything(chains: int) -> None:
    llr, other = random_llr(chains, 784).float(), random_llr(chains, 784, seed=1).float()
    message = torch.zeros_like(llr)
    for dim in (0, 1):
        compiled.update_messages(llr, other, message, LAWS[0], dim, damping=0.1, **EVERYTHING)
        compiled.gate_messages(llr, message, llr.select(dim, 0).double(), dim)
    compiled.element_evidence(llr, other, message, -3.0)


def test_scratch_memory_is_kept() -> None:
    solve_everything(300)
    before = {name: x.ctypes.data for name, x in vars(compiled._scratch()).items()}
    tracemalloc.start()
    try:
        solve_everything(300)
        assert tracemalloc.get_traced_memory()[1] < 300 * 784
    finally:
        tracemalloc.stop()
    assert {name: x.ctypes.data for name, x in vars(compiled._scratch()).items()} == before
    assert all(place % 64 == 0 for place in before.values())


def test_kernels_allocate_nothing() -> None:
    threads = torch.get_num_threads()
    nrt.memsys_enable_stats()
    try:
        torch.set_num_threads(1)
        allocations = []
        for chains in (40, 40, 4000):  # the first call may compile
            before = nrt.memsys_get_stats_alloc()
            solve_everything(chains)
            allocations.append(nrt.memsys_get_stats_alloc() - before)
    finally:
        nrt.memsys_disable_stats()
        torch.set_num_threads(threads)
    assert allocations[1] == allocations[2]  # a header for each array that is handed over


def test_element_evidence_does_not_depend_on_the_number_of_threads() -> None:
    tensors = [random_llr(3, 300, 400, seed=seed).float() for seed in range(3)]
    threads, sums = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            sums.append(compiled.element_evidence(*tensors, -3.0))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_threads_work_in_a_forked_process_and_end_with_it() -> None:
    code = """
import os, torch
from pyro_turbovbi.kernels import ChainLaw, compiled
llr = torch.randn(600, 784)
def solve():
    torch.set_num_threads(2)
    message = torch.empty_like(llr)
    compiled.update_messages(llr, None, message, ChainLaw(0.1, 0.2), 1)
    return message
expected = solve()
child = os.fork()
same = torch.equal(solve(), expected)
if child:
    same = same and os.waitpid(child, 0)[1] == 0
    print("same" if same else "different")
else:
    os._exit(not same)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout.strip() == "same", done.stderr


def test_works_where_nothing_can_be_cached(tmp_path: Path) -> None:
    source = Path(compiled.__file__)
    copy = tmp_path / "package" / "uncached.py"
    copy.parent.mkdir()
    copy.write_text(source.read_text())
    (copy.parent / "__pycache__").write_text("no directory")
    home = tmp_path / "home"
    home.write_text("no directory either")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import uncached, numba;"
        "print(type(uncached._solve._cache).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(copy.parent)],
        env={"HOME": str(home), "PATH": "", "PYTHONPATH": str(source.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "NullCache", done.stderr
