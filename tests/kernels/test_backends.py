from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import torch

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError
from pyro_turbovbi.kernels import (
    ChainLaw,
    SlowMessagePassingWarning,
    backends,
    chain_posterior,
    grid_posterior,
    reference,
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
    from pyro_turbovbi.kernels import scan

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
    again = chain_posterior(llr, LAW, out=out, backend=backend)
    assert again.extrinsic is out.extrinsic
    fresh = chain_posterior(llr, LAW, backend=backend)
    torch.testing.assert_close(again.log_odds, fresh.log_odds)
    torch.testing.assert_close(again.extrinsic, fresh.extrinsic)

    grid = grid_posterior(llr, LAW, LAW, backend=backend)
    expected = grid_posterior(llr + 1, LAW, LAW, start=grid.messages, backend=backend)
    warm = grid_posterior(llr + 1, LAW, LAW, start=grid.messages, out=grid, backend=backend)
    for tensor, target, value in (
        (warm.extrinsic, grid.extrinsic, expected.extrinsic),
        (warm.messages, grid.messages, expected.messages),
    ):
        assert tensor is target
        torch.testing.assert_close(tensor, value)


def test_refuses_results_that_do_not_fit() -> None:
    llr = torch.zeros(4, 5)
    chain, grid = chain_posterior(llr, LAW), grid_posterior(llr, LAW, LAW)
    for wrong in (llr.double(), llr.T, llr[:3]):
        with pytest.raises(ShapeError, match="overwritten"):
            chain_posterior(wrong.contiguous(), LAW, out=chain)
        with pytest.raises(ShapeError, match="overwritten"):
            grid_posterior(wrong.contiguous(), LAW, LAW, out=grid)
