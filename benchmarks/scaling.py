"""What a step costs as the network grows: time beside plain Adam's, and peak memory.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/scaling.py     all rows that FILE lacks -> JSON, table
    python benchmarks/scaling.py --only 1e6 vgg_16           rows whose name contains one of these
    python benchmarks/scaling.py --out FILE                  where the JSON goes

Perceptrons w-w-w-10 on random inputs, and VGG-16 on random images; Turbo-VBI with default
settings under the default prior, and its lean mode. Every row is a process of its own. In one,
steps of plain Adam (fused), of Turbo-VBI and of the lean mode take turns: CPU time of a step,
medians of the turns, with the share of a step that closed-form updates (every 20 steps) and message
passing (every 100) have. In others, one for each, the peak of resident memory over two steps above
what the imports took; glibc is told there to give back what is freed (MALLOC_MMAP_THRESHOLD_), of
which it would keep a part. Ratios are to the plain Adam of the same process; the load of the
machine, which other jobs share, is recorded. Several processes (Gloo, one thread each) divide a
batch and the messages among them: wall and CPU time of the first one, to be measured on an idle
machine with as many cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from benchmarks.common import plain_step, write_json
from models import vgg_16
from pyro_turbovbi import distributed, engines, likelihoods
from pyro_turbovbi.engines.turbo.lean import LeanTurboVBI

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "scaling.json"
#: Steps of the training that the schedules span: 40 epochs of 469 batches.
STEPS = 18_760
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        weights: About how many; 0: VGG-16.
        batch: Inputs a step.
        threads: Of torch.
        turns: Of steps whose time is taken; 0: peak memory alone.
        modes: What takes turns.
        peaks: Whose peak memory is measured.
    """

    weights: int
    batch: int = 128
    threads: int = 1
    turns: int = 7
    modes: tuple[str, ...] = ("adam", "turbo", "lean")
    peaks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Unique among the cases."""
        net = f"{self.weights:.0e}".replace("e+0", "e") if self.weights else "vgg_16"
        return f"{net}, batch {self.batch}, threads {self.threads}"


@dataclass(frozen=True)
class Together:
    """A row of several processes.

    Attributes:
        weights: About how many.
        batch: Inputs a step, of all processes together.
        processes: How many.
        turns: Of steps whose time is taken.
    """

    weights: int
    batch: int
    processes: int
    turns: int = 15

    @property
    def name(self) -> str:
        """Unique among the cases."""
        return f"{Case(self.weights, self.batch).name}, processes {self.processes}"


ALL = ("adam", "turbo", "lean")
CASES = (
    Case(10_000),
    Case(100_000),
    Case(1_000_000, peaks=ALL),
    Case(10_000_000, turns=3, peaks=ALL),
    Case(1_000_000, batch=16),
    Case(1_000_000, batch=1024, turns=3),
    Case(1_000_000, threads=2),
    Case(0, batch=32, turns=0, peaks=ALL),
    Case(100_000_000, batch=8, turns=1, modes=("adam", "lean"), peaks=("lean",)),
)
TOGETHER = tuple(
    Together(weights, batch, processes)
    for weights, batch in ((100_000, 1024), (1_000_000, 128), (1_000_000, 1024), (1_000_000, 4096))
    for processes in (1, 2)
)


def problem(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    """Network, inputs and labels."""
    torch.manual_seed(0)
    labels = torch.arange(case.batch) % 10
    if not case.weights:
        return vgg_16.network(), torch.randn(case.batch, 3, 32, 32), labels
    width = max(1, round((case.weights / 2) ** 0.5))
    layers = [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(case.batch, width), labels


def adam(case: Case) -> dict[str, Callable[[], Any]]:
    """A step of plain training."""
    net, x, y = problem(case)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    return {"step": lambda: plain_step(net, optimizer, x, y)}


def turbo(case: Case, make: type[ptv.TurboVBI] = ptv.TurboVBI) -> dict[str, Callable[[], Any]]:
    """A step without closed-form updates, these updates, and an exchange of messages."""
    net, x, y = problem(case)
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=ptv.priors.ThreeLayer())
    bnn.num_data = 60_000
    del net  # the lifted net has its own
    run = make(bnn, settings=engines.TurboSettings(), num_steps=STEPS)
    run.setup(x, y)

    def refresh() -> None:
        with torch.no_grad():
            for factor in run.guide:
                run.sites[factor.name].refresh(factor.second_moment())

    return {"step": lambda: run.step(x, y), "refresh": refresh, "exchange": run.exchange}


def lean(case: Case) -> dict[str, Callable[[], Any]]:
    """As `turbo`; its steps have the closed-form updates in them."""
    parts = turbo(case, LeanTurboVBI)
    return {name: part for name, part in parts.items() if name != "refresh"}


MODES: dict[str, Callable[[Case], dict[str, Callable[[], Any]]]] = {
    "adam": adam,
    "turbo": turbo,
    "lean": lean,
}


def cpu_seconds(part: Callable[[], Any]) -> float:
    """CPU time of a call, all threads together."""
    started = time.process_time()
    part()
    return time.process_time() - started


def times(case: Case) -> Row:
    """CPU seconds of a step of each mode, and of its parts: medians of turns."""
    torch.set_num_threads(case.threads)
    parts = {mode: MODES[mode](case) for mode in case.modes}
    for mode in case.modes:
        parts[mode]["step"]()  # warms up; is the step with the first exchange
    found: dict[str, dict[str, list[float]]] = {m: {n: [] for n in parts[m]} for m in parts}
    for _ in range(case.turns):
        for mode, named in parts.items():
            for name, part in named.items():
                found[mode][name].append(cpu_seconds(part))
    medians = {m: {n: statistics.median(v) for n, v in named.items()} for m, named in found.items()}
    return {mode: {n: round(v, 7) for n, v in named.items()} for mode, named in medians.items()}


def step_seconds(parts: dict[str, float]) -> float:
    """CPU seconds of a step with its share of updates and exchanges."""
    settings = engines.TurboSettings()
    interval = settings.message_interval(STEPS)
    refresh, exchange = parts.get("refresh", 0.0), parts.get("exchange", 0.0)
    return parts["step"] + refresh / settings.refresh_every + exchange / interval


def together(case: Together) -> Row:
    """Seconds of a step, and of an exchange of messages, in the first of the connected processes.

    Medians of turns, on the wall and of this process's CPU.
    """
    torch.set_num_threads(1)
    with distributed.session() as world:
        net, x, y = problem(Case(case.weights, case.batch))
        bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=ptv.priors.ThreeLayer())
        bnn.num_data = 60_000
        run = ptv.TurboVBI(bnn, settings=engines.TurboSettings(), num_steps=STEPS, world=world)
        run.step(x, y)  # the one with the first exchange
        steps = [_wall_and_cpu(lambda: run.step(x, y)) for _ in range(case.turns)]
        exchanges = [_wall_and_cpu(run.exchange) for _ in range(3)]
    names = ("step_wall", "step_cpu"), ("exchange_wall", "exchange_cpu")
    return {
        name: statistics.median(values)
        for pair, found in zip(names, (steps, exchanges), strict=True)
        for name, values in zip(pair, zip(*found, strict=True), strict=True)
    }


def _wall_and_cpu(part: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    part()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_bytes(case: Case, mode: str) -> int:
    """Peak of resident memory over two steps (a single one of the largest net) above the imports'.

    Threads and libraries are warm, so that what they take is not counted.
    """
    torch.set_num_threads(case.threads)
    small = MODES[mode](Case(1000, batch=case.batch))
    for part in small.values():
        part()
    before = _peak()
    parts = MODES[mode](case)
    for _ in range(2 if case.turns != 1 else 1):
        parts["step"]()
    return _peak() - before


def _peak() -> int:
    """Peak of this process's resident memory, in bytes.

    `getrusage` would hand down the peak of the process that started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def in_process(case: Case | Together, what: str) -> Any:
    """`times`, `together` or `peak_bytes` in a process of its own, or in several."""
    command = [sys.executable, "-m"]
    if isinstance(case, Together):
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={case.processes}"]
        command += [*launcher, "-m"]
    command += ["benchmarks.scaling", "--child", json.dumps(asdict(case)), what]
    environment = dict(os.environ)
    if what in MODES:
        environment["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{case.name}, {what}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def child(case: str, what: str) -> None:
    """What `in_process` has started: measure, and print the figures."""
    settings = json.loads(case)
    if what == "together":
        figures = together(Together(**settings))
        if int(os.environ["RANK"]) == 0:
            print(json.dumps(figures))
        return
    asked = Case(**settings)
    print(json.dumps(times(asked) if what == "times" else peak_bytes(asked, what)))


def measure(case: Case) -> Row:
    """A row: everything that the case asks for."""
    count = sum(p.numel() for p in problem(Case(case.weights, batch=1))[0].parameters())
    row: Row = {
        "method": f"perceptron, {count:.1e} parameters" if case.weights else "VGG-16",
        "case": case.name,
        "parameters": count,
        "batch": case.batch,
        "threads": case.threads,
        "load": round(os.getloadavg()[0], 1),
    }
    if case.turns:
        parts = in_process(case, "times")
        seconds = {mode: step_seconds(named) for mode, named in parts.items()}
        row |= {f"{mode}_step_ms": round(1e3 * s, 3) for mode, s in seconds.items()}
        row |= {
            f"{mode}_step_ratio": round(s / seconds["adam"], 3)
            for mode, s in seconds.items()
            if mode != "adam"
        }
        row["exchange_ns_per_weight"] = round(1e9 * parts["lean"]["exchange"] / count, 2)
        row["parts"] = parts
    for mode in case.peaks:
        row[f"{mode}_peak_floats"] = round(in_process(case, mode) / 4 / count, 2)
    return row


def measure_together(case: Together) -> Row:
    """A row of several processes, in milliseconds."""
    count = sum(p.numel() for p in problem(Case(case.weights, batch=1))[0].parameters())
    return {
        "method": f"perceptron, {count:.1e} parameters",
        "case": case.name,
        "parameters": count,
        "batch": case.batch,
        "processes": case.processes,
        "load": round(os.getloadavg()[0], 1),
        **{f"{k}_ms": round(1e3 * v, 3) for k, v in in_process(case, "together").items()},
    }


def result(rows: list[Row]) -> Row:
    """The file's content; parts of steps are kept beside the table's rows."""
    return {
        "case": "Cost of a step against the size of the network",
        "protocol": " ".join(__doc__.split("\n\n")[-1].split()),
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores that other jobs share",
        "readme": False,
        "rows": [
            {k: v for k, v in row.items() if k not in ("parts", "case")}
            for row in rows
            if "processes" not in row
        ],
        "measured": rows,
    }


def main() -> None:
    """Make the rows that are missing, one by one; write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the names of rows")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    out: Path = arguments.out
    rows: list[Row] = (
        json.loads(out.read_text(encoding="utf-8"))["measured"] if out.exists() else []
    )
    done = {row["case"] for row in rows}
    cases: tuple[Case | Together, ...] = (*CASES, *TOGETHER)
    order = [case.name for case in cases]
    for case in cases:
        if case.name in done or not any(part in case.name for part in arguments.only):
            continue
        row = measure_together(case) if isinstance(case, Together) else measure(case)
        print({k: v for k, v in row.items() if k != "parts"}, flush=True)
        rows = sorted([*rows, row], key=lambda r: order.index(r["case"]))
        write_json(out, result(rows))


if __name__ == "__main__":
    main()
