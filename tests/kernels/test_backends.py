from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError
from pyro_turbovbi.kernels import (
    ChainLaw,
    SlowMessagePassingWarning,
    backends,
    chain_posterior,
    gated_posterior,
    grid_posterior,
    reference,
    scan,
)

LAW = ChainLaw.stationary(0.1, 4.0)


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(backends, "numba_available", lambda: False)
    monkeypatch.setattr(backends, "_LARGE", 100)
    backends._warn_once.cache_clear()
    yield
    backends._warn_once.cache_clear()


def test_auto_compiles_what_it_can() -> None:
    pytest.importorskip("numba")
    from pyro_turbovbi.kernels import compiled

    for dtype in (torch.float32, torch.float64):
        solver = backends.backend_for(torch.zeros(3, dtype=dtype))
        assert solver.update_messages is compiled.update_messages
        result = torch.empty(3, dtype=dtype)
        assert solver.workspace(result) is result


def test_other_dtypes_take_the_reference() -> None:
    llr = torch.zeros(3, dtype=torch.bfloat16)
    assert backends.backend_for(llr).update_messages is reference.update_messages
    assert backends.backend_for(llr).workspace(llr).dtype == torch.float64


def test_other_devices_take_the_scan() -> None:
    llr = torch.zeros(3, device="meta")
    assert backends.backend_for(llr).update_messages is scan.update_messages


@pytest.mark.parametrize(
    ("name", "needs"), [("compiled", "on the CPU, with Numba"), ("triton", "with Triton")]
)
def test_says_what_a_back_end_needs(name: backends.BackendName, needs: str) -> None:
    with pytest.raises(UnsupportedError, match=needs):
        backends.backend_for(torch.zeros(3, device="meta"), name)


def test_half_precision_is_solved() -> None:
    llr = torch.tensor([[1.0, -2.0, 0.5]])
    half = grid_posterior(llr.bfloat16(), LAW, LAW)
    single = grid_posterior(llr, LAW, LAW)
    assert half.log_odds.dtype == torch.bfloat16
    torch.testing.assert_close(half.log_odds.float(), single.log_odds, rtol=1e-2, atol=1e-2)


@pytest.mark.usefixtures("no_type_checks")
def test_refuses_unknown_names() -> None:
    with pytest.raises(InvalidArgumentError, match="auto, compiled, triton, scan, torch"):
        backends.backend_for(torch.zeros(3), "cuda")


@pytest.mark.usefixtures("without_numba")
def test_one_warning_for_large_posteriors_only() -> None:
    chain_posterior(torch.zeros(99), LAW)
    with pytest.warns(SlowMessagePassingWarning, match=r"pyro-turbovbi\[fast\]"):
        chain_posterior(torch.zeros(100), LAW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chain_posterior(torch.zeros(100), LAW)


@pytest.mark.usefixtures("without_numba")
def test_who_asks_for_a_back_end_is_not_warned() -> None:
    chain_posterior(torch.zeros(100), LAW, backend="torch")
    with pytest.raises(UnsupportedError, match="with Numba"):
        chain_posterior(torch.zeros(100), LAW, backend="compiled")


def test_kernels_that_fail_on_a_device_are_not_taken() -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("no kernel image")

    def wrong(llr: Any, other: Any, message: torch.Tensor, law: Any, dim: int) -> None:
        message.zero_()

    device = torch.device("cpu")
    assert backends.triton_works(device, scan.update_messages)
    for update, reason in ((broken, "no kernel image"), (wrong, "not close")):
        with pytest.warns(SlowMessagePassingWarning, match=f"without Triton.*{reason}"):
            assert not backends.triton_works(device, update)


def test_importing_the_package_does_not_import_numba() -> None:
    code = "import sys, pyro_turbovbi; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("backend", ["compiled", "scan", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_go_where_they_are_told(backend: str, dtype: torch.dtype) -> None:
    if backend == "compiled":
        pytest.importorskip("numba")
    llr = torch.randn(2, 5, 6, dtype=dtype)
    out = chain_posterior(torch.zeros_like(llr), LAW)
    again = chain_posterior(llr, LAW, out=out.extrinsic, backend=backend)
    assert again.extrinsic is out.extrinsic
    fresh = chain_posterior(llr, LAW, backend=backend)
    torch.testing.assert_close(again.log_odds, fresh.log_odds)
    torch.testing.assert_close(again.extrinsic, fresh.extrinsic)

    grid = grid_posterior(llr, LAW, LAW, backend=backend)
    expected = grid_posterior(llr + 1, LAW, LAW, start=grid.messages, backend=backend)
    warm = grid_posterior(
        llr + 1, LAW, LAW, start=grid.messages, out=(grid.extrinsic, grid.messages), backend=backend
    )
    for tensor, target, value in (
        (warm.extrinsic, grid.extrinsic, expected.extrinsic),
        (warm.messages, grid.messages, expected.messages),
    ):
        assert tensor is target
        torch.testing.assert_close(tensor, value)


@pytest.mark.usefixtures("no_type_checks")
def test_refuses_results_that_do_not_fit() -> None:
    llr = torch.zeros(4, 5)
    chain, grid = chain_posterior(llr, LAW), grid_posterior(llr, LAW, LAW)
    for wrong in (llr.double(), llr.T, llr[:3]):
        with pytest.raises(ShapeError, match="overwritten"):
            chain_posterior(wrong.contiguous(), LAW, out=chain.extrinsic)
        with pytest.raises(ShapeError, match="overwritten"):
            grid_posterior(wrong.contiguous(), LAW, LAW, out=(grid.extrinsic, grid.messages))


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda llr: llr,
    "transposed": lambda llr: llr.transpose(-1, -2),
    "every other": lambda llr: llr.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda llr: llr[:1].expand(llr.shape),
    "offset": lambda llr: torch.cat([llr, llr], -2)[..., llr.shape[-2] :, :],
}


@st.composite
def problems(draw: st.DrawFn) -> tuple[torch.Tensor, ChainLaw, ChainLaw]:
    """Log-likelihood ratios in any layout, size and precision, and two chain laws."""
    shape = draw(st.lists(st.integers(1, 90), min_size=2, max_size=3))
    shape[0] = min(shape[0], 4) if len(shape) == 3 else shape[0]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    llr = torch.randn(shape, generator=generator, dtype=torch.float64)
    llr *= draw(st.sampled_from([0.1, 3.0, 50.0, 1e4]))
    view = VIEWS[draw(st.sampled_from(sorted(VIEWS)))]
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    density = 10.0 ** draw(st.floats(-7.0, -0.4))
    laws = [ChainLaw.stationary(density, 10.0 ** draw(st.floats(0.25, 7.0))) for _ in range(2)]
    return view(llr.to(draw(st.sampled_from(DEVICES)), dtype)), laws[0], laws[1]


def assert_same(ours: Any, theirs: Any, dtype: torch.dtype) -> None:
    """Compare all tensors of two posteriors: rounding only, in the precision of the storage."""
    tolerance = (
        {"rtol": 1e-8, "atol": 1e-7} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-4}
    )
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, tuple):
            assert_same(a, b, dtype)
        elif isinstance(a, torch.Tensor):
            torch.testing.assert_close(a.double(), b.double(), **tolerance)


@settings(max_examples=50)
@given(problems(), st.sampled_from([-1, -2]))
def test_all_back_ends_agree_on_chains(
    problem: tuple[torch.Tensor, ChainLaw, ChainLaw], dim: int
) -> None:
    llr, law, _ = problem
    everything = {"pairwise": True, "log_evidence": True, "dim": dim}
    expected = chain_posterior(llr.double(), law, backend="torch", **everything)
    for name in backends.backend_names(llr):
        ours = chain_posterior(llr, law, backend=name, **everything)
        assert ours.extrinsic.dtype == llr.dtype
        assert_same(ours, expected, llr.dtype)


@settings(max_examples=50)
@given(problems(), st.sampled_from([0.0, 0.3]))
def test_all_back_ends_agree_on_grids(
    problem: tuple[torch.Tensor, ChainLaw, ChainLaw], damping: float
) -> None:
    llr, row, column = problem
    options = {"sweeps": 2, "damping": damping, "pairwise": True, "log_evidence": True}
    expected = grid_posterior(llr.double(), row, column, backend="torch", **options)
    for name in backends.backend_names(llr):
        ours = grid_posterior(llr, row, column, backend=name, **options)
        torch.testing.assert_close(
            ours.extrinsic.double(), expected.extrinsic, rtol=1e-5, atol=1e-4
        )
        assert_same(ours.transitions, expected.transitions, torch.float32)


@settings(max_examples=50)
@given(problems(), st.sampled_from([-1, -2]))
def test_all_back_ends_agree_on_gated_chains(
    problem: tuple[torch.Tensor, ChainLaw, ChainLaw], dim: int
) -> None:
    llr, gate, within = problem
    everything = {"pairwise": True, "log_evidence": True, "dim": dim, "gate_dim": -3 - dim}
    expected = gated_posterior(llr.double(), gate, within, backend="torch", **everything)
    for name in backends.backend_names(llr):
        ours = gated_posterior(llr, gate, within, backend=name, **everything)
        assert_same(ours, expected, llr.dtype)


class LargestAllocation(TorchDispatchMode):
    """Notes the largest new storage, in bytes, among the results of torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {
            leaf.untyped_storage().data_ptr()
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in known:
                self.bytes = max(self.bytes, leaf.untyped_storage().nbytes())
        return result


def test_nothing_large_is_allocated_in_the_steady_state() -> None:
    pytest.importorskip("numba")
    llr = torch.randn(64, 96)
    chain, grid = chain_posterior(llr, LAW), grid_posterior(llr, LAW, LAW)
    gated = gated_posterior(llr, LAW, LAW)
    with LargestAllocation() as fresh:
        chain_posterior(llr, LAW)
    assert fresh.bytes == llr.nbytes
    with LargestAllocation() as steady:
        chain_posterior(llr, LAW, out=chain.extrinsic)
        chain_posterior(llr, LAW, dim=0, out=chain.extrinsic)
        grid_posterior(llr, LAW, LAW, start=grid.messages, out=(grid.extrinsic, grid.messages))
        gated_posterior(llr, LAW, LAW, out=gated.extrinsic)
    assert steady.bytes <= llr.nbytes // 8  # an evidence in double precision per line
