"""The frontier of error against size: our method, its ingredients, and what it is compared with.

    python benchmarks/frontier.py                       all cases, methods and seeds
    python benchmarks/frontier.py --case lenet_5 --method "ours, gates" --seed 1 --device cuda
    python benchmarks/frontier.py --tune                the candidates, on 5,000 validation images
    python benchmarks/frontier.py --ablation            the full method with one ingredient off
    python benchmarks/frontier.py --list                the names of methods
    python benchmarks/frontier.py --tables --pictures   from the runs that are kept, train nothing
    python benchmarks/frontier.py --tables --equal-density 1 --case lenet_300_100
    python benchmarks/frontier.py --jobs 16             so many runs side by side, a thread each

Protocol: the same start, 3 epochs of plain Adam (small net: 5, ResNet-20: 10); then 40 epochs
(LeNet-5 and the small net: 20, ResNet-20: 30) of every method on the same data, batch 128
(CIFAR-10: 64), one thread a run. Choices are made on 5,000 held-out images, ours in
trials that the lab notes describe, those of other methods with ``--tune`` on LeNet-300-100, whose
choices the other cases take over; the final runs train on
all images of the case and report the error of the network after the last epoch on the 10,000 test
images. The rows of our method are one recipe at several values of `compression`. Where there are
teachers, they are three dense networks of the same shape, trained with dropout on the same images.
The hidden units of all networks are re-ordered before they are measured. Runs are kept one by one
in ``results/frontier/``, the trained networks in ``cache/``: an interrupted benchmark goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import multiprocessing
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from benchmarks.common import write_json
from benchmarks.frontier_cases import equal_density
from benchmarks.frontier_cases.cases import CASES
from benchmarks.frontier_cases.methods import (
    CANDIDATES,
    ablations_of,
    choice,
    method_of,
    methods_of,
)
from benchmarks.frontier_cases.peers import missing
from benchmarks.frontier_cases.runs import Run, result_of
from benchmarks.frontier_cases.tables import results_file, write_tables

SEEDS = (0, 1, 2)


def final_runs(arguments: argparse.Namespace) -> Iterator[Run]:
    """The runs of the tables: the first seed of every method before the second of any."""
    for seed in arguments.seed:
        for case in arguments.case:
            for method in (ablations_of if arguments.ablation else methods_of)(case):
                if wanted(case, method, arguments):
                    yield Run(case, method, seed, epochs=arguments.epochs, device=arguments.device)


def wanted(case: str, method: str, arguments: argparse.Namespace) -> bool:
    """Whether a method is asked for, and its package is there."""
    if arguments.method and method not in arguments.method:
        return False
    package = missing(method_of(case, method))
    if package is not None:
        print(f"{method} is left out: {package} is not installed (the extra bench-peers)")
    return package is None


def tuning_runs(arguments: argparse.Namespace) -> Iterator[Run]:
    """One seed of every candidate."""
    for case in arguments.case:
        for method, candidates in CANDIDATES.items():
            if not arguments.method or method in arguments.method:
                for candidate in candidates:
                    name = f"{method}: {candidate}"
                    if missing(method_of(case, name)) is None:
                        yield Run(case, name, 0, "tuning", arguments.epochs, arguments.device)


def results(runs: Iterable[Run], jobs: int, again: bool) -> Iterator[tuple[Run, dict[str, Any]]]:
    """The figures of runs, as they are ready."""
    if jobs == 1:
        for run in runs:
            yield run, result_of(run, again=again)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would not survive a GPU's driver
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=one_thread) as pool:
        waiting = {pool.submit(result_of, run, again=again): run for run in runs}
        for done in as_completed(waiting):
            try:
                yield waiting[done], done.result()
            except Exception:  # the other runs go on
                print(f"{waiting[done]} failed\n{traceback.format_exc()}", flush=True)


def one_thread() -> None:
    """Runs are single-threaded: they are small, and several go on at once."""
    torch.set_num_threads(1)


def line(run: Run, found: Mapping[str, Any]) -> str:
    """A run in one line."""
    return (
        f"{run.case:14s} {run.method:32s} {run.seed}  error {found['error_percent']:.2f} % "
        f"(mean {found['posterior_mean_error_percent']:.2f})  left "
        f"{found['weights_left_percent']:.3f} %  {found['structure']}  run "
        f"{found['mean_cluster_length']:.1f}  index {found['index_bits_run_length']:.1f}  bytes "
        f"{found['bytes']} ({found['quantised_error_percent']})  "
        f"{found['seconds']:.0f} s, CPU {found['cpu_seconds']:.0f} s"
    )


def print_choices(found: Mapping[Run, Mapping[str, Any]]) -> None:
    """What the rule chooses among the candidates."""
    by_family: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for run, figures in found.items():
        method, _, candidate = run.method.partition(": ")
        by_family.setdefault((run.case, method), {})[candidate] = figures
    for (case, method), runs in by_family.items():
        print(f"{case}: {method}: {choice(runs, CASES[case].target)!r}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--method", nargs="+", default=[], help="names as --list prints them")
    parser.add_argument("--seed", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="in the place of the case's own")
    parser.add_argument("--tune", action="store_true", help="candidates on validation images")
    parser.add_argument("--ablation", action="store_true", help="the full method's ablations")
    parser.add_argument("--tables", action="store_true", help="write the tables, train nothing")
    parser.add_argument("--pictures", action="store_true", help="draw as well (needs matplotlib)")
    parser.add_argument(
        "--equal-density", type=float, help="percent at which kept supports are compared"
    )
    parser.add_argument("--again", action="store_true", help="measure kept networks anew")
    parser.add_argument("--list", action="store_true", help="print the methods of the cases")
    return parser.parse_args()


def main() -> None:
    """Train what is missing, measure, print."""
    arguments = parse()
    one_thread()
    runs = list((tuning_runs if arguments.tune else final_runs)(arguments))
    if arguments.list:
        print("\n".join(f"{run.case}  {run.method}" for run in runs if run.seed == runs[0].seed))
        return
    found = {}
    if arguments.tables:
        runs = []
    for run, figures in results(runs, arguments.jobs, arguments.again):
        found[run] = figures
        print(line(run, figures), flush=True)
    write(arguments, found)
    if len(found) < len(runs):
        raise SystemExit(f"{len(runs) - len(found)} runs failed")


def write(arguments: argparse.Namespace, found: Mapping[Run, Mapping[str, Any]]) -> None:
    """What is made of all runs together: choices, tables, pictures."""
    if arguments.tune:
        print_choices(found)
    elif arguments.epochs is None:  # shorter runs are trials
        protocol = " ".join(__doc__.split("Protocol: ")[1].split())
        write_tables(arguments.case, SEEDS, protocol, pictures=arguments.pictures)
    for case in arguments.case if arguments.equal_density else []:
        table = equal_density.table(case, SEEDS, arguments.equal_density / 100.0)
        write_json(results_file(case, "_equal_density"), table)


if __name__ == "__main__":
    main()
