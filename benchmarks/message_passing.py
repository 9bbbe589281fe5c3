"""Message passing: nanoseconds per variable of one posterior, against a plain copy and other code.

    python benchmarks/message_passing.py                 all shapes -> JSON, table
    python benchmarks/message_passing.py --small         the 300 x 784 rows only
    python benchmarks/message_passing.py --device cuda   on a GPU, without peers -> JSON of its own
    python benchmarks/message_passing.py --out FILE      where the JSON goes

Chains run along rows or along columns; a "full posterior" is messages, expected transition counts
and log-evidence; gated rows are chains behind a chain of gates; a grid sweep is a row pass and a
column pass. Every figure is the least of several
runs, in single precision, with results written in place. Speed / plain copy's is the time of
copying the log-likelihood ratios over it: 1 would be the speed of memory. Speed up is over one
thread in the same run. Cold: the first four sweeps of a fresh process that has compiled the code
but has no buffers yet; extra memory is the highest resident size during them, less the size before,
as a multiple of the log-likelihood ratios and with the results counted. Peers (the extra
`bench-peers`) solve the same 300 chains of 784 elements, or loopy sweeps of a grid of that size,
each in a process of its own after a check that it finds the same posterior (PGMax updates all
messages at once, which carries them one element a sweep: checked at the fixed point of a 24 x 32
grid); conversions and compilation are not timed. Times ours is over this package's time in that
process; one thread is one core there, by its affinity. hmmlearn cannot use more.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_turbovbi.kernels import ChainLaw, chain_posterior, gated_posterior, grid_posterior
from pyro_turbovbi.kernels.backends import backend_names

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "message_passing.json"
GPU_RESULTS = RESULTS.with_stem("message_passing_gpu")
SHAPES = ((300, 784), (512, 4608), (64, 100_000), (4096, 4096))
LAW = ChainLaw.stationary(0.05, 5.0)
SECONDS = 1.0  # per figure
PORTABLE_LIMIT = 1_000_000
GPU_SHAPE = (10_000, 10_000)
#: Of `benchmarks/peers/message_passing.py`, which needs none of them to be installed.
PEERS = ("dynamax", "hmmlearn", "pyro", "pomegranate", "pgmax")
COLD_SHAPE, COLD_SWEEPS = (4096, 4096), 4
Row = dict[str, Any]


def wait() -> None:
    """Until a GPU, if there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def best(task: Callable[[], object], size: int) -> float:
    """Nanoseconds per variable: the least over about a second of runs, at least three."""
    task()
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        wait()
        start = time.perf_counter()
        task()
        wait()
        times.append(time.perf_counter() - start)
    return min(times) / size * 1e9


def tasks(llr: Tensor, backend: Any) -> Iterable[tuple[str, Callable[[], object], int]]:
    """Name, task and variables solved: chains both ways, their extras, a sweep of the grid."""
    extrinsic, messages = torch.empty_like(llr), torch.empty_like(llr)
    everything = {"pairwise": True, "log_evidence": True}

    def chain(dim: int, **options: bool) -> Callable[[], object]:
        return lambda: chain_posterior(llr, LAW, dim=dim, out=extrinsic, backend=backend, **options)

    def sweeps() -> object:
        return grid_posterior(llr, LAW, LAW, sweeps=4, out=(extrinsic, messages), backend=backend)

    yield "row chains", chain(-1), llr.numel()
    yield "column chains", chain(-2), llr.numel()
    yield "row chains, full posterior", chain(-1, **everything), llr.numel()
    yield "column chains, full posterior", chain(-2, **everything), llr.numel()
    yield (
        "gated rows",
        lambda: gated_posterior(llr, LAW, LAW, out=extrinsic, backend=backend),
        llr.numel(),
    )
    yield "grid, a sweep", sweeps, 4 * llr.numel()


def ours(shape: tuple[int, int], device: str = "cpu") -> list[Row]:
    """Rows of all back ends for one shape and the present number of threads."""
    llr = 3 * torch.randn(shape, device=device)
    target = torch.empty_like(llr)
    copy = best(lambda: target.copy_(llr), llr.numel())
    rows = []
    for backend in backend_names(llr):
        if backend in ("scan", "torch") and llr.numel() > PORTABLE_LIMIT and device == "cpu":
            continue
        if backend == "torch" and device != "cpu":  # a launch for every element of a chain
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


def add_speed_up(rows: list[Row]) -> None:
    """Give rows of several threads their speed over the same row's with one."""
    single = {(row["method"], row["shape"]): row for row in rows if row["threads"] == 1}
    for row in rows:
        base = single.get((row["method"], row["shape"]), row)["ns_per_variable"]
        if row["threads"] > 1 and isinstance(base, float):
            row["speed_up"] = round(base / row["ns_per_variable"], 2)


def resident_bytes(*, peak: bool) -> int:
    """Resident size of this process: the present one or, with `peak`, the highest so far.

    On Linux not from `getrusage`, whose peak a process inherits from the one that started it.
    Elsewhere the peak stands for both.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(fields["VmHWM" if peak else "VmRSS"].split()[0])
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def cold_grid(shape: tuple[int, int]) -> Row:
    """Time and memory of the first posterior of a grid, to be called once in a fresh process.

    The resident size counts what any library allocates, not only torch's tensors. The size before
    is the present one, so that an earlier, higher peak could only make the figure larger.
    """
    grid_posterior(torch.randn(64, 64), LAW, LAW, sweeps=COLD_SWEEPS)  # compiles, warms up
    llr = torch.randn(shape).mul_(3)
    before, started = resident_bytes(peak=False), time.perf_counter()
    posterior = grid_posterior(llr, LAW, LAW, sweeps=COLD_SWEEPS)
    seconds, extra = time.perf_counter() - started, resident_bytes(peak=True) - before
    assert posterior.extrinsic.shape == llr.shape
    return {
        "method": f"grid, {COLD_SWEEPS} sweeps, cold",
        "shape": f"{shape[0]} x {shape[1]:,}",
        "threads": torch.get_num_threads(),
        "ns_per_variable": round(seconds / llr.numel() / COLD_SWEEPS * 1e9, 2),
        "cold_seconds": round(seconds, 3),
        "extra_memory": round(extra / (llr.numel() * llr.element_size()), 2),
    }


def in_a_process(*command: str) -> list[Row]:
    """Rows that another Python process prints as JSON in its last line."""
    run = subprocess.run(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    rows: list[Row] = json.loads(run.stdout.splitlines()[-1])
    return rows


def peers(threads: int) -> list[Row]:
    """Rows of other code."""
    script = ("-m", "benchmarks.peers.message_passing")
    return [row for name in PEERS for row in in_a_process(*script, name, "--threads", str(threads))]


def print_rows(rows: list[Row]) -> None:
    """One line a row."""
    for row in rows:
        first, *others = row.values()
        print(f"{first:<44}  " + "  ".join(f"{value!s:>12}" for value in others), flush=True)


def main() -> None:
    """Measure with one thread and with all, print the rows, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="300 x 784 only")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--cold", type=int, metavar="THREADS", help="print the cold grid's row")
    arguments = parser.parse_args()
    if arguments.cold:
        torch.set_num_threads(arguments.cold)
        print(json.dumps([cold_grid(COLD_SHAPE)]))
        return
    shapes, available = SHAPES[:1] if arguments.small else SHAPES, torch.get_num_threads()
    rows: list[Row] = []
    if arguments.device != "cpu":
        gpu_shapes = shapes if arguments.small else (*shapes, GPU_SHAPE)
        rows = [row for shape in gpu_shapes for row in ours(shape, arguments.device)]
        print_rows(rows)
        write(rows, torch.cuda.get_device_name(), arguments.out or GPU_RESULTS)
        return
    for threads in sorted({1, available}):
        torch.set_num_threads(threads)
        found = [row for shape in shapes for row in ours(shape)]
        if not arguments.small:
            found += in_a_process(str(Path(__file__).resolve()), "--cold", str(threads))
        found += peers(threads)
        rows += found
        add_speed_up(rows)
        print_rows(found)
    device = f"{platform.machine()} CPU, {available} threads available"
    write(rows, device, arguments.out or RESULTS)


def write(rows: list[Row], device: str, path: Path) -> None:
    """Write the results file."""
    result = {
        "case": "Message passing, time per variable",
        "protocol": " ".join(__doc__.split("\n\n")[-1].split()),
        "device": device,
        "readme": False,
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
