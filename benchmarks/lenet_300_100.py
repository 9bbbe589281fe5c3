"""LeNet-300-100 on MNIST: error, size, regularity and cost of Turbo-VBI under three support priors.

    python benchmarks/lenet_300_100.py            three seeds on all 60,000 images -> JSON, table
    python benchmarks/lenet_300_100.py --tune     the choices, on a validation split of 5,000
    python benchmarks/lenet_300_100.py --fresh    forget the stored runs first

Protocol: 15 epochs in all, 3 of plain Adam and 12 of the engine, one thread; the error is that of
the cut network after the last epoch, on the 10,000 test images; medians over seeds. Every choice
was made with ``--tune``, which never reads a test image. Runs are kept one by one in
``results/lenet_300_100/``: an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from benchmarks.common import Split, cached, error_percent, file_name, plain_step, summary
from benchmarks.common import plain_epochs as epochs_of_batches
from pyro_turbovbi import data, engines, likelihoods, priors, supports
from pyro_turbovbi.compression import compress, masked

RESULTS = Path(__file__).parent / "results"
RUNS = RESULTS / "lenet_300_100"
SEEDS = (0, 1, 2)
PRETRAINING_EPOCHS, ENGINE_EPOCHS, BATCH = 3, 12, 128


#: What comes on top of the exchange is measured by `benchmarks/frontier.py`.
PLAIN_EXCHANGE = engines.ModelReduction(strength=0.0)


@dataclass(frozen=True)
class Recipe:
    """One configuration: a support prior and the engine's knobs."""

    support: supports.Support
    kl_weight: float = 0.2
    kl_warmup: float = 0.0

    def engine(self) -> engines.Turbo:
        """The Turbo engine of this recipe: the plain exchange, without model reduction."""
        return engines.Turbo(
            kl_weight=self.kl_weight, kl_warmup=self.kl_warmup, reduction=PLAIN_EXCHANGE
        )


DENSE = "dense (plain Adam)"
INDEPENDENT, CHAIN = supports.Independent(0.05), supports.Chain(0.05, mean_run=10.0)
GRID = supports.Grid(0.05, mean_run=(10.0, 10.0))
#: Chosen among the candidates so that all three leave about the same share of weights, clearly less
#: than 2 %: the clusters are then compared at equal density.
RECIPES: dict[str, Recipe] = {
    "Turbo, independent support": Recipe(INDEPENDENT, kl_weight=0.25),
    "Turbo, row chains": Recipe(CHAIN, kl_weight=0.25),
    "Turbo, grid": Recipe(GRID, kl_weight=0.2),
}
#: What `--tune` tries.
CANDIDATES: dict[str, Recipe] = {
    "independent, kl_weight 0.2": Recipe(INDEPENDENT, 0.2),
    "independent, kl_weight 0.25": Recipe(INDEPENDENT, 0.25),
    "chain, kl_weight 0.2": Recipe(CHAIN, 0.2),
    "chain, kl_weight 0.25": Recipe(CHAIN, 0.25),
    "chain, kl_weight 0.25, warm-up": Recipe(CHAIN, 0.25, kl_warmup=0.15),
    "grid, kl_weight 0.15": Recipe(GRID, 0.15),
    "grid, kl_weight 0.2": Recipe(GRID, 0.2),
}


def make_net(seed: int) -> nn.Sequential:
    """LeNet-300-100 with PyTorch's default start weights."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def plain_epochs(net: nn.Module, train: Split, epochs: int) -> None:
    """Plain training with Adam: the start of every method, and the dense row itself."""
    epochs_of_batches(net, train, epochs, BATCH)


def dense_run(seed: int, train: Split, held_out: Split) -> dict[str, Any]:
    """All epochs of plain Adam."""
    net, started = make_net(seed), time.perf_counter()
    plain_epochs(net, train, PRETRAINING_EPOCHS + ENGINE_EPOCHS)
    return {
        "error_percent": error_percent(net, held_out),
        "weights_left_percent": 100.0,
        "structure": "784-300-100",
        "seconds": time.perf_counter() - started,
    }


def turbo_run(recipe: Recipe, seed: int, train: Split, held_out: Split) -> dict[str, Any]:
    """Pretraining, Turbo-VBI, and the network that comes out of it."""
    net, started = make_net(seed), time.perf_counter()
    plain_epochs(net, train, PRETRAINING_EPOCHS)
    prior = priors.ThreeLayer(support=recipe.support)
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    fit = ptv.fit(
        bnn, train, engine=recipe.engine(), epochs=ENGINE_EPOCHS, batch_size=BATCH, seed=seed
    )
    seconds = time.perf_counter() - started
    mean, masks = fit.mean_net(), fit.masks()
    small = compress(mean, masks, train[0][:1000])
    regularity = small.report.regularity_total
    return {
        "error_percent": error_percent(small.module, held_out),
        "posterior_mean_error_percent": error_percent(mean, held_out),
        "masked_error_percent": error_percent(masked(mean, masks), held_out),
        "weights_left_percent": 100.0 * small.report.weights_left,
        "structure": str(small.report.structure),
        "clusters": regularity.clusters,
        "mean_cluster_length": regularity.mean_cluster_length,
        "index_bits_run_length": regularity.index_bits_run_length,
        "bytes": small.report.bytes,
        "elbo": fit.elbo,
        "elbo_kind": fit.elbo_kind,
        "seconds": seconds,
    }


def epoch_cost(recipe: Recipe, train: Split) -> dict[str, Any]:
    """Time of Turbo-VBI steps over plain Adam steps, in alternating blocks of 100 steps.

    A block takes batches from the data set as an epoch does, and holds one message pass as in
    training; the median ratio over blocks is reported, against torch's Adam as it comes and
    against its fused form (which the engine uses).
    """
    prior = priors.ThreeLayer(support=recipe.support)
    bnn = ptv.lift(make_net(0), likelihood=likelihoods.Categorical(), prior=prior)
    bnn.num_data = len(train[0])
    turbo = ptv.TurboVBI(bnn, settings=recipe.engine(), num_steps=100_000)
    turbo.setup(train[0][:BATCH], train[1][:BATCH])
    steps: dict[str, Callable[[Tensor, Tensor], object]] = {"turbo": turbo.step}
    for name, fused in (("adam", None), ("fused_adam", True)):
        net = make_net(0)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused)
        steps[name] = partial(plain_step, net, optimizer)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(12):
        rows = torch.randperm(len(train[0]))[: 100 * BATCH].split(BATCH)
        for name, step in steps.items():
            started = time.perf_counter()
            for batch in rows:
                step(train[0][batch], train[1][batch])
            seconds[name].append((time.perf_counter() - started) / len(rows))
    blocks = list(
        zip(*(seconds[name][1:] for name in ("turbo", "adam", "fused_adam")), strict=True)
    )
    return {
        "milliseconds_a_step": {n: 1e3 * statistics.median(s[1:]) for n, s in seconds.items()},
        "epoch_cost_ratio": statistics.median(turbo / adam for turbo, adam, _ in blocks),
        "epoch_cost_ratio_fused": statistics.median(turbo / fused for turbo, _, fused in blocks),
    }


def described(recipe: Recipe | None) -> dict[str, Any]:
    """Everything that the result of a run depends on, as JSON."""
    common = {"epochs": [PRETRAINING_EPOCHS, ENGINE_EPOCHS], "batch": BATCH}
    if recipe is None:
        return common
    prior = priors.ThreeLayer(support=recipe.support)
    components = prior.components(torch.Size([1, 1]))
    return common | {
        "support": repr(recipe.support),
        "engine": json.loads(json.dumps(asdict(recipe.engine()))),
        "components_at_unit_fan_in": json.loads(json.dumps(components)),
    }


def row(method: str, runs: list[dict[str, Any]], cost: dict[str, Any]) -> dict[str, Any]:
    """One line of the table: all figures over seeds, and the structure of the median seed."""
    median = sorted(runs, key=lambda run: float(run["error_percent"]))[len(runs) // 2]
    result: dict[str, Any] = {"method": method, "seeds": list(SEEDS)}
    result["test_error_percent"] = summary([run["error_percent"] for run in runs])
    result["weights_left_percent"] = summary([run["weights_left_percent"] for run in runs])
    result["structure"] = median["structure"]
    for key in ("clusters", "mean_cluster_length", "index_bits_run_length", "bytes", "seconds"):
        if key in median:
            result[key] = summary([run[key] for run in runs])
    for key in ("epoch_cost_ratio", "epoch_cost_ratio_fused"):
        result[key] = round(cost[key], 3) if key in cost else None
    return result


def final() -> dict[str, Any]:
    """Three seeds of every method on all training images."""
    splits = data.mnist(validation=0)
    train, test = splits.train, splits.test
    rows = []
    for method, recipe in [(DENSE, None), *RECIPES.items()]:
        runs = []
        for seed in SEEDS:
            path = RUNS / f"{file_name(method)}-{seed}.json"

            def run(recipe: Recipe | None = recipe, seed: int = seed) -> dict[str, Any]:
                if recipe is None:
                    return dense_run(seed, train, test)
                return turbo_run(recipe, seed, train, test)

            runs.append(cached(path, described(recipe), run))
        cost: dict[str, Any] = {}
        if recipe is not None:
            path, measure = (
                RUNS / f"{file_name(method)}-cost.json",
                partial(epoch_cost, recipe, train),
            )
            cost = cached(path, described(recipe), measure)
        rows.append(row(method, runs, cost))
    return {
        "case": "LeNet-300-100 on MNIST",
        "protocol": "60,000 training and 10,000 test images; 3 epochs of plain Adam, then 12 of "
        "Turbo-VBI (dense: 15 of plain Adam), batch 128, no KL warm-up, KL weights "
        + ", ".join(f"{r.kl_weight} ({n.removeprefix('Turbo, ')})" for n, r in RECIPES.items())
        + "; error of the cut network after the last epoch, median of 3 seeds; every choice made "
        "on a validation split; cost of an epoch as a multiple of one with torch's Adam as it "
        "comes, measured in alternation in the same run",
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
        "readme": False,
        "rows": rows,
    }


def tune() -> None:
    """One seed of every candidate on 55,000 images, measured on the 5,000 others."""
    splits = data.mnist(validation=5000)
    train, validation = splits.train, splits.validation
    for name, recipe in CANDIDATES.items():
        path = RUNS / "tuning" / f"{file_name(name)}.json"
        run = cached(path, described(recipe), partial(turbo_run, recipe, 0, train, validation))
        print(_line(name, run), flush=True)


def _line(name: str, run: dict[str, Any]) -> str:
    return (
        f"{name:45s} validation error {run['error_percent']:.2f} %  left "
        f"{run['weights_left_percent']:.2f} %  {run['structure']}  clusters {run['clusters']}"
    )


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The table, one line a row."""
    for entry in result["rows"]:
        figures = [
            f"{entry[key]['median']:.2f}" if key in entry else "-"
            for key in ("test_error_percent", "weights_left_percent", "clusters")
        ]
        yield f"{entry['method']:28s} {entry['structure']:>14s} " + " ".join(
            f"{figure:>9s}" for figure in [*figures, str(entry["epoch_cost_ratio"])]
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tune", action="store_true", help="run the candidates on a validation split"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the stored runs first")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.fresh:
        for stored in (RUNS / "tuning" if arguments.tune else RUNS).glob("*.json"):
            stored.unlink()
    if arguments.tune:
        tune()
    else:
        outcome = final()
        (RESULTS / "lenet_300_100.json").write_text(json.dumps(outcome, indent=1) + "\n")
        print(f"{'method':28s} {'structure':>14s} {'error %':>9s} {'left %':>9s} clusters  cost")
        print("\n".join(lines(outcome)))
