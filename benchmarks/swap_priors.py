"""One network, one protocol, every prior: error, calibration, size and cost side by side.

    python benchmarks/swap_priors.py                     three seeds of every method -> JSON, table
    python benchmarks/swap_priors.py --only Horseshoe    some methods, the others' runs are kept
    python benchmarks/swap_priors.py --tune              the choices, on 5,000 validation images
    python benchmarks/swap_priors.py --cost              what one step costs, measured again

LeNet-300-100 on MNIST: 3 epochs of plain Adam, the same for all methods, then 8 of the engine,
batch 128, one thread, Pyro's checks of arguments off. Turbo-VBI with its default schedule; the
other priors with their declared defaults by SVI with AutoNormal, or by MAP, with an Adam whose rate
decays a hundredfold. Choices were made by trainings of 2 epochs on 55,000 training images, one
seed: the first rate, 0.001 or 0.01, by the error of the 5,000 other images for MAP, and by the
higher ELBO for SVI (with five of its eight priors, which agree: Laplace, StudentT and LogUniform
take the same); the group lasso's strength, 10, 30 or 100, is the largest with which the cut
network errs on them at most 0.3 points more than with the smallest. SVI maximises the ELBO;
Turbo-VBI weights the KL term by 0.2, so a row with weight 1 stands beside it; it is the plain
exchange, without model reduction. Test error,
NLL and calibration of the posterior predictive of 32 draws (MAP: one point); the cut network
carries posterior means and keeps what the rule of the prior's authors keeps; beside it the error of
the same means where 2 % of the weights are kept, by |mean| / scale (where weights are composed of
several sites, and for MAP: by |mean|). Always the last epoch; medians of the seeds, in brackets the
lowest and the highest; a method with fewer seeds than others was measured less often. Step cost as
a multiple of a step of torch's Adam as it comes, in CPU time, in alternating blocks of one run;
training time is that of the engine's steps by the same measurement.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from pyro.optim import ClippedAdam

import pyro_turbovbi as ptv
from benchmarks import lenet_300_100 as lenet
from benchmarks.common import Split, cached, error_percent, file_name, plain_step, summary
from pyro_turbovbi import data, engines, likelihoods, priors
from pyro_turbovbi.batches import Batch
from pyro_turbovbi.compression import masked
from pyro_turbovbi.engines.protocol import AnyEngine, Plan
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.priors.base import Prior

RESULTS = Path(__file__).parent / "results"
RUNS = RESULTS / "swap_priors"
SEEDS = (0, 1, 2)
ENGINE_EPOCHS, TUNING_EPOCHS = 8, 2
#: Factor by which the learning rate of SVI and MAP falls over the training.
DECAY = 0.01
#: Share of weights at which all methods are compared.
KEPT = 0.02
BLOCK, ROUNDS = 100, 4


@dataclass(frozen=True)
class Method:
    """A prior and how it is fitted: one row of the table.

    Args:
        prior: Prior of all weight matrices.
        engine: Which engine.
        lr: Adam's first learning rate, for SVI and MAP.
        kl_weight: That of Turbo-VBI; None: its default.
    """

    prior: Prior
    engine: Literal["svi", "map", "turbo"] = "svi"
    lr: float | None = None
    kl_weight: float | None = None

    def make_engine(self, steps: int) -> AnyEngine:
        """The engine for a training of so many steps."""
        if self.engine == "turbo":
            return engines.Turbo(kl_weight=self.kl_weight, reduction=lenet.PLAIN_EXCHANGE)
        # One optimiser a run (it has a state). Nothing is clipped: it is here for its decay.
        optim = ClippedAdam({"lr": self.lr, "lrd": DECAY ** (1 / steps), "clip_norm": 1e9})
        return engines.MAP(optim=optim) if self.engine == "map" else engines.SVI(optim=optim)

    def described(self, epochs: int) -> dict[str, Any]:
        """Everything that the result of a run depends on, as JSON."""
        recipe = {
            "prior": repr(self.prior),
            "engine": self.engine,
            "epochs": [lenet.PRETRAINING_EPOCHS, epochs],
            "batch": lenet.BATCH,
        }
        if self.engine == "turbo":
            return recipe | {"kl_weight": self.kl_weight}  # the rest are the defaults
        return recipe | {"lr": self.lr, "decay": DECAY}


#: Learning rates and the group lasso's strength were chosen with `--tune`.
METHODS: dict[str, Method] = {
    "ThreeLayer, Turbo": Method(priors.ThreeLayer(), "turbo", kl_weight=0.2),
    "ThreeLayer, Turbo, KL weight 1": Method(priors.ThreeLayer(), "turbo", kl_weight=1.0),
    "Normal, MAP (dense)": Method(priors.Normal(), "map", lr=1e-2),
    "GroupLasso, MAP": Method(priors.GroupLasso(30.0), "map", lr=1e-2),
    "Normal": Method(priors.Normal(), lr=1e-2),
    "Laplace": Method(priors.Laplace(), lr=1e-2),
    "StudentT": Method(priors.StudentT(), lr=1e-2),
    "Horseshoe": Method(priors.Horseshoe(), lr=1e-2),
    "SpikeSlab": Method(priors.SpikeSlab(), lr=1e-2),
    "LogUniform": Method(priors.LogUniform(), lr=1e-2),
    "GroupNormalJeffreys": Method(priors.GroupNormalJeffreys(), lr=1e-2),
    "GroupHorseshoe": Method(priors.GroupHorseshoe(), lr=1e-2),
}
LEARNING_RATES = (1e-3, 1e-2)
STRENGTHS = (10.0, 30.0, 100.0)


def candidates(method: Method) -> Iterator[Method]:
    """What `--tune` tries in the place of a method; nothing for Turbo-VBI."""
    if method.engine == "turbo":
        return
    grouped = isinstance(method.prior, priors.GroupLasso)
    for prior in [priors.GroupLasso(s) for s in STRENGTHS] if grouped else [method.prior]:
        for rate in LEARNING_RATES:
            yield replace(method, prior=prior, lr=rate)


def steps_an_epoch(split: Split) -> int:
    """Batches of a data set, the last one perhaps smaller."""
    return -(-len(split[0]) // lenet.BATCH)


def train(method: Method, seed: int, split: Split, epochs: int) -> tuple[ptv.Fit, float]:
    """Plain epochs, which are the same for all methods, and the engine's; the fit and seconds."""
    net, started = lenet.make_net(seed), time.perf_counter()
    lenet.plain_epochs(net, split, lenet.PRETRAINING_EPOCHS)
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=method.prior)
    steps = epochs * steps_an_epoch(split)
    fit = ptv.fit(
        bnn,
        split,
        engine=method.make_engine(steps),
        epochs=epochs,
        batch_size=lenet.BATCH,
        seed=seed,
        progress=False,
    )
    return fit, time.perf_counter() - started


def measured(fit: ptv.Fit, split: Split, held_out: Split) -> dict[str, Any]:
    """Quality of the predictive distribution, and of the networks that are cut out of it."""
    metrics = fit.evaluate(held_out, num_samples=0 if fit.elbo is None else 32)
    assert metrics.error is not None
    assert metrics.ece is not None
    small = fit.compress(split[0])
    cut = {"cut": small.module, "kept": masked(fit.mean_net(), fit.masks(KEPT))}
    errors = {name: error_percent(net, held_out) for name, net in cut.items()}
    return {
        "predictive_error_percent": 100.0 * metrics.error,
        "cut_error_percent": errors["cut"],
        "nll_of_thousand": 1000.0 * metrics.nll,
        "ece_percent": 100.0 * metrics.ece,
        "weights_left_percent": 100.0 * small.report.weights_left,
        "error_percent_at_equal_size": errors["kept"],
        "structure": str(small.report.structure),
        "clusters": small.report.regularity_total.clusters,
        "bytes": small.report.bytes,
    }


def run(method: Method, seed: int, split: Split, held_out: Split, epochs: int) -> dict[str, Any]:
    """One training and all that is measured of it."""
    fit, seconds = train(method, seed, split, epochs)
    torch.manual_seed(seed)  # the draws of the predictive distribution
    return measured(fit, split, held_out) | {"elbo": fit.elbo, "seconds": seconds}


def stepper(bnn: BayesianNet, engine: AnyEngine, split: Split) -> Callable[..., object]:
    """A training step of an engine, as a function of inputs and targets."""
    bnn.num_data = len(split[0])
    example = Batch((split[0][: lenet.BATCH], split[1][: lenet.BATCH]))
    state = engine.init(bnn.train(), Plan(bnn.num_data, 100_000, example))
    return lambda x, y: engine.step(state, Batch((x, y)))


def step_costs(split: Split) -> dict[str, Any]:
    """Time of every method's step over that of a plain Adam step.

    All of them and plain Adam take turns, in blocks of 100 steps that draw their batches from the
    data set as an epoch does and hold one message pass of Turbo-VBI as in training. The median of
    the ratios of all rounds but the first. In CPU time: what else runs on the machine matters less.
    """
    net = lenet.make_net(0)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    steps: dict[str, Callable[..., object]] = {"adam": partial(plain_step, net, adam)}
    for name, method in METHODS.items():
        bnn = ptv.lift(lenet.make_net(0), likelihood=likelihoods.Categorical(), prior=method.prior)
        steps[name] = stepper(bnn, method.make_engine(100_000), split)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        rows = torch.randperm(len(split[0]))[: BLOCK * lenet.BATCH].split(lenet.BATCH)
        for name, step in steps.items():
            started = time.process_time()
            for batch in rows:
                step(split[0][batch], split[1][batch])
            seconds[name].append((time.process_time() - started) / len(rows))
    return {
        "steps_an_epoch": steps_an_epoch(split),
        "milliseconds_a_step": {n: 1e3 * statistics.median(s[1:]) for n, s in seconds.items()},
        "step_cost_ratio": {
            name: statistics.median(
                a / b for a, b in zip(seconds[name][1:], seconds["adam"][1:], strict=True)
            )
            for name in METHODS
        },
    }


def path_of(method: str, seed: int | str) -> Path:
    """Where a run is kept."""
    return RUNS / f"{file_name(method)}-{seed}.json"


def stored(method: str) -> dict[int, dict[str, Any]]:
    """The runs of a method that are there and were made with its recipe, by seed."""
    found = {}
    for seed in SEEDS:
        path = path_of(method, seed)
        if path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["recipe"] == METHODS[method].described(ENGINE_EPOCHS):
                found[seed] = kept
    return found


def row(
    name: str, runs: Mapping[int, Mapping[str, Any]], costs: Mapping[str, Any] | None
) -> dict[str, Any]:
    """One line of the table: figures over seeds, and the structure of the median seed."""
    order = sorted(runs.values(), key=lambda one: float(one["cut_error_percent"]))
    result: dict[str, Any] = {"method": name, "seeds": sorted(runs)}
    for key in order[0]:
        if key == "structure":
            result[key] = order[len(order) // 2][key]
        elif key not in ("recipe", "elbo", "seconds"):  # wall time: the machine has other work
            result[key] = summary([one[key] for one in runs.values()])
    rate = METHODS[name].lr
    result["first_lr"] = None if rate is None else f"{rate:g}"  # a text: tables round numbers
    result["num_seeds"] = len(runs)
    if costs is not None:
        result["step_cost_ratio"] = round(costs["step_cost_ratio"][name], 3)
        steps = ENGINE_EPOCHS * costs["steps_an_epoch"]
        result["seconds"] = round(steps * costs["milliseconds_a_step"][name] / 1e3, 1)
    return result


def table() -> dict[str, Any]:
    """All runs that are there."""
    path = RUNS / "cost.json"
    costs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    runs = {name: stored(name) for name in METHODS}
    return {
        "case": "Swapping the prior: LeNet-300-100 on MNIST",
        "protocol": " ".join(__doc__.split("\n\n")[-1].split()),
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
        "readme": False,
        "rows": [row(name, found, costs) for name, found in runs.items() if found],
    }


def write() -> dict[str, Any]:
    """Write the table's JSON; return it."""
    result = table()
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1) + "\n"
    (RESULTS / "swap_priors.json").write_text(text, encoding="utf-8")
    return result


def final(names: Iterable[str]) -> None:
    """All seeds of some methods; the first seed of every method before the second of any."""
    splits = data.mnist(validation=0)
    names = list(names)
    for seed in SEEDS:
        for name in names:
            method = METHODS[name]
            one = partial(run, method, seed, splits.train, splits.test, ENGINE_EPOCHS)
            found = cached(path_of(name, seed), method.described(ENGINE_EPOCHS), one)
            print(_line(f"{name}, seed {seed}", found), flush=True)
            write()


def tune(names: Iterable[str]) -> None:
    """One seed of every candidate on 55,000 images, measured on the 5,000 others."""
    splits = data.mnist(validation=5000)
    for name in names:
        for method in candidates(METHODS[name]):
            recipe = method.described(TUNING_EPOCHS)
            label = f"{method.prior!r} {method.engine} {method.lr:g}"
            one = partial(run, method, 0, splits.train, splits.validation, TUNING_EPOCHS)
            path = RUNS / "tuning" / f"{file_name(label)}.json"
            print(_line(label, cached(path, recipe, one)), flush=True)


def cost() -> None:
    """Measure the step costs again."""
    recipe = {name: method.described(ENGINE_EPOCHS) for name, method in METHODS.items()}
    (RUNS / "cost.json").unlink(missing_ok=True)
    found = cached(RUNS / "cost.json", recipe, partial(step_costs, data.mnist(validation=0).train))
    print(json.dumps(found["step_cost_ratio"], indent=1))


def _line(name: str, found: Mapping[str, Any]) -> str:
    return (
        f"{name:55s} predictive {found['predictive_error_percent']:.2f} %  NLL "
        f"{found['nll_of_thousand']:.1f}  cut {found['cut_error_percent']:.2f} %  left "
        f"{found['weights_left_percent']:.2f} %  {found['structure']}  at {KEPT:.0%} "
        f"{found['error_percent_at_equal_size']:.2f} %  {found['seconds']:.0f} s"
    )


def main() -> None:
    """Measure, print, write the JSON after every run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="try the candidates on validation data")
    parser.add_argument("--cost", action="store_true", help="measure the cost of a step alone")
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    with pyro.validation_enabled(False):
        if arguments.tune:
            tune(arguments.only)
            return
        if not arguments.cost:
            final(arguments.only)
        if arguments.cost or not (RUNS / "cost.json").exists():
            cost()
    write()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
