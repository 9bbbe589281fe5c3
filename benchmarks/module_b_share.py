"""Module B's share of a training: time in message passing over the time of all steps, measured.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/module_b_share.py     all nets -> JSON, table
    python benchmarks/module_b_share.py --only "VGG-16"             one net, the other rows are kept
    python benchmarks/module_b_share.py --resume                    only what FILE does not have yet
    python benchmarks/module_b_share.py --threads 1 2 --out FILE    threads, where the JSON goes

Turbo-VBI with default settings under the default chain and the default grid, batch 128, schedules
of 40 epochs. The share is the time inside `ModuleB.exchange`, all weights together, over the time
of a whole number of message intervals, each step with the reading of its batch: as every interval
is alike, this is the share of an epoch. An interval of warm-up comes first (VGG-16: 5 steps) and
is not counted; two intervals are (VGG-16: one, as an epoch takes half an hour). LeNets see MNIST;
VGG-16 sees random images of CIFAR-10's shape, on whose values no time depends.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import data, engines, likelihoods, priors, supports
from pyro_turbovbi.engines.turbo.module_b import ModuleB

RESULTS = Path(__file__).parent / "results" / "module_b_share.json"
BATCH, EPOCHS = 128, 40
SUPPORTS: dict[str, supports.Support] = {"chain": supports.Chain(), "grid": supports.Grid()}
Row = dict[str, Any]


def lenet_300_100() -> nn.Sequential:
    """784-300-100-10."""
    return nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def lenet_5() -> nn.Sequential:
    """LeNet-5-Caffe, 20-50-800-500."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


def vgg_16() -> nn.Sequential:
    """Thirteen convolutions with batch normalisation, as usual for CIFAR-10, and two linear maps.

    The usual net is told apart from ImageNet's by its head: 512-512-10.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for widths in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        for width in widths:
            convolution = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    head = (nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return nn.Sequential(*layers, *head)


def mnist(*, flat: bool) -> tuple[Tensor, Tensor]:
    """MNIST's 60,000 training images and labels."""
    train = data.mnist(validation=0, flat=flat).train
    return train.x, train.y


def images_like_cifar() -> tuple[Tensor, Tensor]:
    """Random images [points, 3, 32, 32] and labels, a few batches of them."""
    return torch.randn(4 * BATCH, 3, 32, 32), torch.arange(4 * BATCH) % 10


@dataclass(frozen=True)
class Case:
    """A net, what it sees, and how much of its training is measured.

    Attributes:
        points: Size of the whole training set; `load` may hand out fewer.
        intervals: Message intervals that are measured.
        warm_up: Steps before them; None is one message interval.
    """

    build: Callable[[], nn.Sequential]
    load: Callable[[], tuple[Tensor, Tensor]]
    points: int
    intervals: int = 2
    warm_up: int | None = None


CASES: dict[str, Case] = {
    "LeNet-300-100": Case(lenet_300_100, partial(mnist, flat=True), 60_000),
    "LeNet-5-Caffe": Case(lenet_5, partial(mnist, flat=False), 60_000),
    "VGG-16": Case(vgg_16, images_like_cifar, 50_000, intervals=1, warm_up=5),
}


@contextmanager
def exchanges_timed() -> Iterator[list[float]]:
    """While it lasts, the seconds of every `ModuleB.exchange` are added to the list."""
    seconds: list[float] = []
    exchange = ModuleB.exchange

    def timed(self: ModuleB, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return exchange(self, *args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - started)

    ModuleB.exchange = timed  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        ModuleB.exchange = exchange  # type: ignore[method-assign]


def measure(case: Case, support: supports.Support, settings: engines.Turbo) -> dict[str, float]:
    """Share of the steps' time in percent, milliseconds a step and an exchange of all weights."""
    torch.manual_seed(0)
    x, y = case.load()
    prior = priors.ThreeLayer(support=support)
    bnn = ptv.lift(case.build(), likelihood=likelihoods.Categorical(), prior=prior)
    bnn.num_data = case.points
    num_steps = EPOCHS * -(-case.points // BATCH)
    turbo = ptv.TurboVBI(bnn, settings=settings, num_steps=num_steps)
    turbo.setup(x[:BATCH], y[:BATCH])
    interval = settings.message_interval(num_steps)
    steps = case.intervals * interval

    def run(count: int) -> None:
        for _ in range(count):
            rows = torch.randint(len(x), (BATCH,))
            turbo.step(x[rows], y[rows])

    run(interval if case.warm_up is None else case.warm_up)
    with exchanges_timed() as seconds:
        started = time.perf_counter()
        run(steps)
        total = time.perf_counter() - started
    assert len(seconds) == case.intervals * len(turbo.sites), "not a whole number of intervals"
    return {
        "module_b_percent": round(100.0 * sum(seconds) / total, 3),
        "ms_per_exchange": round(1e3 * sum(seconds) / case.intervals, 3),
        "ms_per_step": round(1e3 * total / steps, 3),
        "weights": sum(site.shape.numel() for site in turbo.guide.sites.values()),
        "message_interval": interval,
    }


def result(rows: list[Row]) -> dict[str, Any]:
    """The file's content."""
    policy = os.environ.get("OMP_WAIT_POLICY", "not set")
    return {
        "case": "Module B's share of the training time",
        "protocol": " ".join(__doc__.split("\n\n")[-1].split()),
        "device": f"{platform.machine()} CPU, {os.cpu_count()} cores, OMP_WAIT_POLICY {policy}",
        "readme": False,
        "rows": rows,
    }


def key(row: Row) -> tuple[str, str, int]:
    """What tells rows apart: net, support and threads."""
    return row["method"], row["support"], row["threads"]


def main() -> None:
    """Measure case after case, print the rows, write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="these nets")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="numbers of threads")
    parser.add_argument("--resume", action="store_true", help="keep the rows that FILE has")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    arguments = parser.parse_args()
    out: Path = arguments.out
    stored = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else []
    rows = {key(row): row for row in stored}
    wanted = [(n, s, t) for n in arguments.only for s in SUPPORTS for t in arguments.threads]
    if set(arguments.only) == set(CASES) and not arguments.resume:
        rows = {}
    for name, support, threads in wanted:
        if arguments.resume and (name, support, threads) in rows:
            continue
        torch.set_num_threads(threads)
        figures = measure(CASES[name], SUPPORTS[support], engines.Turbo())
        row = {"method": name, "support": support, "threads": threads, **figures}
        rows[key(row)] = row
        print("  ".join(f"{value!s:>14}" for value in row.values()), flush=True)
        order = {case: i for i, case in enumerate(CASES)}
        ordered = sorted(rows.values(), key=lambda r: (order[r["method"]], *key(r)[1:]))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result(ordered), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
