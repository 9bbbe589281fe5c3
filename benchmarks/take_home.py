"""What a user takes home: the file, what is read back from it, and how fast it is.

    python benchmarks/take_home.py                        all networks that the frontier keeps
    python benchmarks/take_home.py --case lenet_5 --method "ours, gates + order" --seed 0
    python benchmarks/take_home.py --again                measure all of them in one run
    python benchmarks/take_home.py --tables               tables of what was measured, nothing else

It trains nothing, and says which command trains a network that is not there; with one exception:
where the frontier keeps no network of torch-pruning, a dense one is pruned here, trained further
for a few epochs and kept. Figures are kept network by network in `results/take_home/`.

Protocol: networks of the frontier benchmark, trained on all 60,000 training images; hidden units
re-ordered, cut and written to a file; bytes are the file's, and the test error is that of the
network read back from it. Rounded: weights rounded as far as the cross entropy of 5,000 of the
training images grows by at most so many nats; with uncertainty: the first of these, and a standard
deviation for every weight. Times smaller: than the dense network's float32 parameters. torchao:
linear layers with integer weights, as safetensors, by torchao's own functions, nothing compiled.
Time of a batch: the median time that the one thread that computes it has a processor, the cut and
the dense network in turns. Accelerated: kernels, the layout of images in memory, and linear layers
computed as one, as measured to be fastest. Speed-ups are over the dense network in the same runtime
(accelerated and integers: over torch; both accelerated: over the dense network that was accelerated
likewise), and the last column is that of the larger batch over the reduction of FLOPs. Pruned to
the size of another network: torch-pruning cuts units of all layers but the last, by the norm of
their weights, until there are at most as many parameters, ranked over all layers or in equal shares
from each, whichever has the lower cross entropy on 5,000 training images; Adam trains what is left,
its rate falling from 0.001 to 0. Medians and ranges of the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import stored, write_json
from benchmarks.frontier_cases import cases, runs
from benchmarks.frontier_cases.cases import CASES
from benchmarks.frontier_cases.measure import QUANTISED_ON
from benchmarks.frontier_cases.runs import Run
from benchmarks.take_home_cases import speed, tables
from benchmarks.take_home_cases.files import TOLERANCES, files_of
from benchmarks.take_home_cases.networks import SEEDS, Kept, Network, every, usual
from pyro_turbovbi.compression.measure import flops_of, parameters_of

PROTOCOL = " ".join(__doc__.split("Protocol: ")[1].split())


def figures_of(network: Network, *, again: bool = False) -> dict[str, Any] | None:
    """The figures of a network: kept ones if they were made with its recipe, otherwise new ones.

    Args:
        network: The network.
        again: Whether to measure anew.

    Returns:
        The figures; None if there are none, and no network to measure.
    """
    known = None if again else kept_figures(network)
    if known is not None:
        return known
    small = network.compressed()
    if small is None:
        return None
    train, held_out = cases.parts(network.case, "final")
    dense = dense_of(network.case)
    found = {
        "recipe": recipe_of(network),
        "method": network.method,
        "seed": network.seed,
        "structure": str(small.report.structure),
        "parameters": small.report.parameters,
        "flops": small.report.flops,
        "dense": costs_of(dense[speed.TORCH], train.x[:1]),
        "files": files_of(small, train, held_out),
        "speed": speed.speed_of(small, dense, train.x),
        "environment": tables.environment(),
    }
    write_json(path_of(network), found)
    return found


def kept_figures(network: Network) -> dict[str, Any] | None:
    """The figures that are kept of a network; None if there are none of its recipe.

    Args:
        network: The network.
    """
    return stored(path_of(network), recipe_of(network))


def path_of(network: Network) -> Path:
    """Where the figures of a network are kept.

    Args:
        network: The network.
    """
    folder = runs.RESULTS.parent / "take_home" / network.case
    return folder / f"{runs.slug(network.method)}-{network.seed}.json"


def recipe_of(network: Network) -> dict[str, Any]:
    """All that the figures depend on, the machine aside.

    Args:
        network: The network.
    """
    return {
        "network": network.recipe(),
        "quantised": {"tolerances": list(TOLERANCES), "points": QUANTISED_ON},
        "batches": list(speed.BATCHES),
        # Accelerated networks may lay images out otherwise, and compute neighbours as one.
        "layouts": True,
        "chains": True,
        "packages": {name: installed(name) for name in ("torch", "onnxruntime", "torchao")},
    }


@lru_cache
def installed(package: str) -> str | None:
    """Version of a package; None if it is not installed.

    Args:
        package: Its name.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def dense_of(case: str) -> dict[str, nn.Module]:
    """A dense network of a case's architecture, in every runtime: no time depends on its weights.

    Args:
        case: Name of the case.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = CASES[case].build().eval().requires_grad_(False)
    return speed.in_runtimes(net, cases.parts(case, "final")[0].x[: max(speed.BATCHES)])


def costs_of(net: nn.Module, example: torch.Tensor) -> dict[str, int]:
    """Size and operations of a dense network.

    Args:
        net: The network.
        example: An input batch.
    """
    size = sum(p.numel() * p.element_size() for p in net.parameters())
    return {"bytes": size, "parameters": parameters_of(net), "flops": flops_of(net, example)}


def chosen(arguments: argparse.Namespace, case: str) -> Iterator[Network]:
    """The networks that are asked for, whether they are there or not.

    Args:
        arguments: The command line.
        case: Name of the case.
    """
    for seed in arguments.seed:
        if arguments.method:
            runs_of = (Run(case, name, seed, epochs=arguments.epochs) for name in arguments.method)
            yield from map(Kept, runs_of)
        else:
            yield from usual(case, seed, arguments.epochs)


def measured(case: str) -> list[dict[str, Any]]:
    """All figures of a case that are kept, of whatever method, method by method.

    Args:
        case: Name of the case.
    """
    by_seed = zip(*(every(case, seed) for seed in SEEDS), strict=True)
    figures = (kept_figures(network) for networks in by_seed for network in networks)
    return [found for found in figures if found is not None]


def line(figures: dict[str, Any]) -> str:
    """A network in one line.

    Args:
        figures: Its figures.
    """
    files = "; ".join(
        f"{form} {file['bytes']} ({file['error_percent']:.2f} %)"
        for form, file in figures["files"].items()
    )
    return f"{figures['method']}  {figures['seed']}  {figures['structure']}  bytes: {files}"


def printed(result: dict[str, Any]) -> str:
    """A table as text: medians alone.

    Args:
        result: What `tables.write_tables` returns.
    """
    lines = [result["case"]]
    for row in result["rows"]:
        what = row.get("form") or row["runtime"]
        head = f"  {row['method']:32s}  {what:20s}  {row['structure']:14s}"
        medians = [f"{k} {v['median']:g}" for k, v in row.items() if isinstance(v, dict)]
        lines.append("  ".join([head, *medians]))
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--method", nargs="+", default=[], help="names as frontier.py --list says")
    parser.add_argument("--seed", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--epochs", type=int, help="networks of a trial: no tables")
    parser.add_argument("--again", action="store_true", help="measure anew what was measured")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, case: str) -> None:
    """Measure what is asked for; say how to train what is not there.

    Args:
        arguments: The command line.
        case: Name of the case.
    """
    for network in chosen(arguments, case):
        figures = figures_of(network, again=arguments.again)
        if figures is None:
            print(f"no network: {network.method}, seed {network.seed}: {network.advice()}")
        else:
            print(line(figures), flush=True)


def main() -> None:
    """Measure, print, write the tables."""
    arguments = parse()
    torch.set_num_threads(1)
    for case in arguments.case:
        if not arguments.tables:
            measure(arguments, case)
        if arguments.epochs is None:
            for result in tables.write_tables(case, measured(case), PROTOCOL):
                print(printed(result))


if __name__ == "__main__":
    main()
