"""Message passing: nanoseconds per variable of one posterior, against a plain copy and other code.

    python benchmarks/message_passing.py                 all shapes -> JSON, table
    python benchmarks/message_passing.py --small         the 300 x 784 rows only
    python benchmarks/message_passing.py --out FILE      where the JSON goes

Chains run along rows or along columns; a grid sweep is a row pass and a column pass. Every figure
is the least of several runs, in single precision, with results written in place; `copy_share` is
the time of copying the log-likelihood ratios relative to it: 1 would be the speed of memory. Peers
solve the same 300 chains of 784 elements, after a check that they find the same posterior; one that
is not installed is named as absent.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_turbovbi.kernels import ChainLaw, chain_posterior, grid_posterior

RESULTS = Path(__file__).parent / "results" / "message_passing.json"
SHAPES = ((300, 784), (512, 4608), (64, 100_000), (4096, 4096))
LAW = ChainLaw.stationary(0.05, 5.0)
SECONDS = 1.0  # per figure
PORTABLE_LIMIT = 1_000_000
Row = dict[str, Any]


def best(task: Callable[[], object], size: int) -> float:
    """Nanoseconds per variable: the least over about a second of runs, at least three."""
    task()
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return min(times) / size * 1e9


def tasks(llr: Tensor, backend: Any) -> Iterable[tuple[str, Callable[[], object], int]]:
    """Name, task and variables solved: chains both ways, their extras, a sweep of the grid."""
    chains, grid = chain_posterior(llr, LAW), grid_posterior(llr, LAW, LAW, sweeps=1)
    everything = {"pairwise": True, "log_evidence": True}

    def chain(dim: int, **options: bool) -> Callable[[], object]:
        return lambda: chain_posterior(llr, LAW, dim=dim, out=chains, backend=backend, **options)

    def sweeps() -> object:
        return grid_posterior(llr, LAW, LAW, sweeps=4, out=grid, backend=backend)

    yield "row chains", chain(-1), llr.numel()
    yield "column chains", chain(-2), llr.numel()
    yield "row chains with counts and evidence", chain(-1, **everything), llr.numel()
    yield "grid, a sweep", sweeps, 4 * llr.numel()


def ours(shape: tuple[int, int]) -> list[Row]:
    """Rows of both back ends for one shape and the present number of threads."""
    llr = 3 * torch.randn(shape)
    target = torch.empty_like(llr)
    copy = best(lambda: target.copy_(llr), llr.numel())
    rows = []
    for backend in ("compiled", "torch"):
        if backend == "torch" and llr.numel() > PORTABLE_LIMIT:
            continue
        for name, task, size in tasks(llr, backend):
            cost = best(task, size)
            rows.append(
                {
                    "method": f"{name} ({backend})",
                    "shape": f"{shape[0]} x {shape[1]:,}",
                    "threads": torch.get_num_threads(),
                    "ns_per_variable": round(cost, 2),
                    "copy_share": round(copy / cost, 3),
                }
            )
    return rows


def pyro_hmm(llr: Tensor) -> Tensor:
    """Posterior probabilities by Pyro's DiscreteHMM: the gradient of its log-evidence."""
    import pyro.distributions as dist

    local = llr.clone().requires_grad_()
    factors = torch.stack([torch.zeros_like(local), local], -1)
    hmm = dist.DiscreteHMM(
        torch.tensor([1 - LAW.density, LAW.density]).log(),
        torch.tensor([[LAW.p00, LAW.p01], [LAW.p10, LAW.p11]]).log(),
        dist.Unit(factors),
        validate_args=False,
    )
    # its chain takes a transition before the first element, which a stationary start absorbs
    evidence = hmm.log_prob(torch.empty(*llr.shape, 0))
    return torch.autograd.grad(evidence.sum(), local)[0]


def hmmlearn(llr: Tensor) -> Tensor:
    """Posterior probabilities by hmmlearn's compiled forward-backward, chain after chain."""
    compiled = importlib.import_module("hmmlearn._hmmc")
    start = torch.tensor([1 - LAW.density, LAW.density]).double().numpy()
    steps = torch.tensor([[LAW.p00, LAW.p01], [LAW.p10, LAW.p11]]).double().numpy()
    result = torch.empty(llr.shape, dtype=torch.float64)
    for chain, target in zip(llr.double(), result, strict=True):
        local = torch.stack([torch.zeros_like(chain), chain], -1)
        odds = (local - local.amax(-1, keepdim=True)).exp().numpy()
        _, forward, scaling = compiled.forward_scaling(start, steps, odds)
        backward = compiled.backward_scaling(start, steps, odds, scaling)
        joint = torch.from_numpy(forward * backward)
        target.copy_(joint[:, 1] / joint.sum(-1))
    return result


PEERS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "Pyro's DiscreteHMM": ("pyro", pyro_hmm),
    "hmmlearn": ("hmmlearn", hmmlearn),
}


def peers() -> list[Row]:
    """Rows of other code on row chains, each first checked against ours."""
    llr = 3 * torch.randn(SHAPES[0])
    expected = chain_posterior(llr.double(), LAW).log_odds.sigmoid()
    rows = []
    for name, (module, solve) in PEERS.items():
        cost = math.nan
        if importlib.util.find_spec(module) is not None:
            torch.testing.assert_close(solve(llr).double(), expected, rtol=1e-3, atol=1e-4)
            cost = best(lambda solve=solve: solve(llr), llr.numel())  # type: ignore[misc]
        rows.append(
            {
                "method": f"row chains ({name})",
                "shape": "300 x 784",
                "threads": torch.get_num_threads(),
                "ns_per_variable": "absent" if math.isnan(cost) else round(cost, 2),
            }
        )
    return rows


def main() -> None:
    """Measure with one thread and with all, print the rows, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="300 x 784 only")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    arguments = parser.parse_args()
    shapes, available = SHAPES[:1] if arguments.small else SHAPES, torch.get_num_threads()
    rows: list[Row] = []
    for threads in sorted({1, available}):
        torch.set_num_threads(threads)
        found = [row for shape in shapes for row in ours(shape)] + (peers() if threads == 1 else [])
        for row in found:
            print(
                "  ".join(
                    f"{value:<44}" if i == 0 else f"{value!s:>12}"
                    for i, value in enumerate(row.values())
                )
            )
        rows += found
    result = {
        "case": "Message passing, time per variable",
        "protocol": " ".join(__doc__.split("\n\n")[-1].split()),
        "device": f"{platform.machine()} CPU, {available} threads available",
        "readme": False,
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
