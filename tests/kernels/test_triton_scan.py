"""The kernels run on a CUDA device; without one, by Triton's interpreter in a child process.

The interpreter takes more than the compiler does, so where Triton is installed the kernels are also
compiled for real devices, which needs none.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.kernels import ChainLaw, reference, scan, triton_scan

ROOT = Path(__file__).resolve().parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
EVERYTHING = {"residual": True, "pairwise": True, "log_evidence": True}
LAWS = [
    ChainLaw.stationary(0.05, 5.0),
    ChainLaw(0.95, 0.9),
    ChainLaw(1e-8, 1e-8),
    ChainLaw(1 - 1e-8, 1 - 1e-8),
    ChainLaw(1e-8, 1 - 1e-8),
    ChainLaw(1 - 1e-8, 1e-8),
]
DOUBLE = {"rtol": 1e-11, "atol": 1e-11}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}

installed = pytest.mark.skipif(
    not triton_scan.available(), reason="Triton is not installed (it comes with torch for GPUs)"
)
runs = pytest.mark.skipif(
    not (triton_scan.available() and (INTERPRETED or DEVICE == "cuda")),
    reason="no CUDA device; with Triton installed a child process runs this by its interpreter",
)


def random(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def solved(
    module: Any, llr: Tensor, other: Tensor | None, message: Tensor, dim: int, **options: Any
) -> tuple[Tensor, Any]:
    """The new message and the summary, without changing the old message."""
    message = message.clone()
    return message, module.update_messages(llr, other, message, options.pop("law"), dim, **options)


def assert_equals_reference(
    llr: Tensor, dim: int, dtype: torch.dtype, module: Any = reference, **options: Any
) -> None:
    other, message = random(*llr.shape, seed=8), random(*llr.shape, seed=9)
    single = [x.to(DEVICE, dtype) for x in (llr, other, message)]
    double = [x.double() for x in single]
    ours, our_summary = solved(triton_scan, *single, dim, **options)
    theirs, their_summary = solved(module, *double, dim, **options)
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=TOLERANCE[dtype])
    if options.get("log_evidence"):
        torch.testing.assert_close(our_summary.log_evidence, their_summary.log_evidence, **DOUBLE)
    if options.get("pairwise"):  # relative: small counts too
        torch.testing.assert_close(
            our_summary.transitions, their_summary.transitions, rtol=1e-9, atol=0
        )
    if options.get("residual"):
        assert our_summary.residual == pytest.approx(
            their_summary.residual, abs=2 * TOLERANCE[dtype]
        )


def test_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from pyro_turbovbi.kernels import triton_scan; "
        "before = 'triton' in sys.modules; triton_scan.available(); "
        "sys.exit(before != ('triton' in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_tiles_cover_all_chains() -> None:
    for shape in [(1,), (7, 1), (1, 5000), (3, 16), (200, 17), (3, 500, 5), (2, 9, 40), (300, 128)]:
        for dim in range(len(shape)):
            for steps in (16, 8):
                tiling = triton_scan._Tiling.of(torch.Size(shape), dim, steps)
                covered = tiling.chunks * tiling.lanes * tiling.steps
                assert tiling.length <= covered < tiling.length + tiling.lanes * tiling.steps
                assert tiling.lanes * tiling.width == 128
                assert tiling.chains * tiling.length == math.prod(shape)


@installed
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED or DEVICE == "cuda", reason="these tests run in this process")
def test_by_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]


@runs
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("shape", "dim"),
    # one lane and several, a tile and several, full and not: row chains, then column chains
    [((1,), 0), ((3, 5), 1), ((2, 16), 1), ((3, 65), 1), ((2, 1100), 1),
     ((5, 3), 0), ((40, 33), 0), ((2, 150, 3), 1), ((2, 2, 3, 2), 1)],
)  # fmt: skip
def test_equals_the_reference(
    shape: tuple[int, ...], dim: int, law: ChainLaw, dtype: torch.dtype
) -> None:
    assert_equals_reference(random(*shape), dim, dtype, law=law, damping=0.3, **EVERYTHING)


@runs
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("shape", "dim"), [((1, 2100), 1), ((300, 3), 0)])
def test_every_option_alone(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    for options in ({}, {"offset": -3.0}, {"damping": 0.5}, {"residual": True},
                    {"log_evidence": True}, {"pairwise": True}):  # fmt: skip
        assert_equals_reference(random(*shape), dim, dtype, law=LAWS[0], **options)


@runs
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("scale", [1e-3, 199.0, 1e4])
def test_extreme_evidence_of_changing_sign(scale: float, law: ChainLaw, dtype: torch.dtype) -> None:
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 0.0]).double().repeat(9)
    assert_equals_reference(scale * signs, 0, dtype, law=law, **EVERYTHING)


@runs
def test_without_other_evidence() -> None:
    llr, message = random(3, 70).to(DEVICE), torch.empty(3, 70, dtype=torch.float64, device=DEVICE)
    ours, _ = solved(triton_scan, llr, None, message, 1, law=LAWS[0])
    theirs, _ = solved(reference, llr, None, message, 1, law=LAWS[0])
    torch.testing.assert_close(ours, theirs, **DOUBLE)


@runs
def test_random_laws() -> None:
    generator = torch.Generator().manual_seed(1)
    for seed in range(10):
        small = 10 ** (-8 * torch.rand(2, generator=generator, dtype=torch.float64))
        p01, p10 = (float(1 - p) if seed % 3 == i else float(p) for i, p in enumerate(small))
        llr = random(2, 77, seed=seed, scale=10.0 ** (seed % 4 - 1))
        assert_equals_reference(llr, 1, torch.float64, law=ChainLaw(p01, p10), **EVERYTHING)


@runs
@pytest.mark.skipif(DEVICE == "cpu", reason="too large for the interpreter")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("shape", "dim"), [((64, 100_000), 1), ((100_000, 64), 0),
                                            ((4000, 3000), 1), ((4000, 3000), 0)])  # fmt: skip
def test_large_chains_on_a_device(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    for law in (LAWS[0], LAWS[2]):
        llr = random(*shape, scale=0.3)
        assert_equals_reference(llr, dim, dtype, scan, law=law, **EVERYTHING)


@runs
@pytest.mark.skipif(DEVICE == "cpu", reason="too large for the interpreter")
def test_results_do_not_change_from_run_to_run() -> None:
    llr, message = random(300, 7000).float().to(DEVICE), torch.zeros(300, 7000, device=DEVICE)
    one, two = (solved(triton_scan, llr, None, message, 1, law=LAWS[0], **EVERYTHING)
                for _ in range(2))  # fmt: skip
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1].log_evidence, two[1].log_evidence)
    assert torch.equal(one[1].transitions, two[1].transitions)


@installed
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter leaves nothing to compile")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("rows", [True, False])
def test_compiles_for_devices(rows: bool, dtype: str, capability: int) -> None:
    shape = torch.Size((3, 5000) if rows else (5000, 64))
    plain = triton_scan._Tiling.of(shape, int(rows), triton_scan._STEPS)
    counted = triton_scan._Tiling.of(shape, int(rows), triton_scan._STEPS_COUNTED)
    flags = ("SPLIT", "MIX", "RESIDUAL", "LOGS", "COUNTS")
    nothing, everything = (dict.fromkeys(("OTHER", *flags), x) for x in (False, True))
    kernels = [
        ("multiply", {**plain.constants, "OTHER": False}),
        ("solve", {**plain.constants, **nothing, "SPLIT": True, "maxnreg": 168}),
        ("solve", {**counted.constants, **everything, "maxnreg": 168}),
        ("enter", {"WIDTH": 2, "SPAN": 64, "num_warps": 4, "enable_fp_fusion": True}),
    ]
    for name, constants in kernels:
        compiled = compile_kernel(name, constants, dtype, capability)
        assert compiled.asm["cubin"]


@installed
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter leaves nothing to compile")
@pytest.mark.parametrize("rows", [True, False])
def test_compiles_for_a_single_element(rows: bool) -> None:
    # arguments that are one are compiled in
    ones = {"chains": 1, "length": 1, "chunks": 1, "size": 1}
    tile = triton_scan._Tiling.of(torch.Size((1,) if rows else (1, 2)), 0, 16).constants
    flags = ("OTHER", "MIX", "RESIDUAL", "LOGS", "COUNTS")
    compile_kernel(
        "solve",
        {**tile, **ones, "inner": 1, **dict.fromkeys(flags, True), "SPLIT": False},
        "fp32",
        90,
    )


def compile_kernel(name: str, constants: dict[str, Any], dtype: str, capability: int) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pyro_turbovbi.kernels import _triton_kernels

    kernel = getattr(_triton_kernels, name)
    known = ("num_warps", "maxnreg", "enable_fp_fusion")
    options = {key: constants[key] for key in known if key in constants}
    compiled_in = {key: constants[key] for key in constants if key not in options}
    kinds = dict.fromkeys(("llr", "other", "message"), f"*{dtype}")
    kinds |= dict.fromkeys(("chains", "length", "inner", "chunks", "size"), "i32")
    signature = {
        x: "constexpr" if x in compiled_in else kinds.get(x, "*fp64") for x in kernel.arg_names
    }
    source = ASTSource(kernel, signature, compiled_in)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
