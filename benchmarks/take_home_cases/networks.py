"""What is measured: networks that the frontier benchmark keeps, and ones pruned from them here."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from benchmarks.frontier_cases import cases
from benchmarks.frontier_cases.cases import CASES
from benchmarks.frontier_cases.measure import QUANTISED_ON, VERIFIED, cut
from benchmarks.frontier_cases.methods import (
    DENSE,
    TORCH_PRUNING,
    ablations_of,
    methods_of,
)
from benchmarks.frontier_cases.peers import masks_within
from benchmarks.frontier_cases.recipes import FULL
from benchmarks.frontier_cases.runs import Run, kept
from benchmarks.frontier_cases.training import Task, cross_entropy, optimise, weights_of
from pyro_turbovbi.compression import Compressed, compress, load
from pyro_turbovbi.compression.quantisation import loss_on
from pyro_turbovbi.data import TensorPair
from pyro_turbovbi.training import start_digest

#: Of what is pruned here: the norm that ranks units, epochs of fine-tuning, first learning rate.
NORM, EPOCHS, LR = 2, 5, 1e-3
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Kept:
    """A network of the frontier.

    Attributes:
        run: Its training.
    """

    run: Run

    @property
    def case(self) -> str:
        """Name of its case."""
        return self.run.case

    @property
    def method(self) -> str:
        """Its method, as the tables call it."""
        return self.run.method

    @property
    def seed(self) -> int:
        """Seed of its training."""
        return self.run.seed

    def recipe(self) -> dict[str, Any]:
        """All that it depends on, as JSON."""
        return self.run.recipe()

    def net(self) -> nn.Module | None:
        """The network before it is cut; None if it is not there."""
        trained = kept(self.run)
        return None if trained is None else trained.net

    def compressed(self) -> Compressed | None:
        """The network, cut; None if what it is made of is not there."""
        trained = kept(self.run)
        return None if trained is None else cut(trained, _train(self.case))

    def advice(self) -> str:
        """What to do so that it is there."""
        run = self.run
        ablation = " --ablation" if run.method in ablations_of(run.case) else ""
        epochs = "" if run.epochs is None else f" --epochs {run.epochs}"
        chosen = f'--case {run.case} --method "{run.method}" --seed {run.seed}'
        return f"python benchmarks/frontier.py {chosen}{ablation}{epochs}"


@dataclass(frozen=True)
class Start:
    """The dense network that all methods of the frontier start from.

    Attributes:
        case: Name of its case.
        seed: Seed of its training.
    """

    case: str
    seed: int

    @property
    def method(self) -> str:
        """See `Kept.method`."""
        return f"{DENSE}, {CASES[self.case].pretraining} epochs"

    def recipe(self) -> dict[str, Any]:
        """See `Kept.recipe`."""
        case = CASES[self.case]
        return {"start": self.case, "epochs": case.pretraining, "batch": case.batch} | {
            "seed": self.seed
        }

    def net(self) -> nn.Module | None:
        """See `Kept.net`."""
        there = cases.start_file(self.case, self.seed, "final").exists()
        return cases.pretrained(self.case, self.seed, "final") if there else None

    def compressed(self) -> Compressed | None:
        """See `Kept.compressed`."""
        net = self.net()
        return None if net is None else _all_of(net, _train(self.case))

    def advice(self) -> str:
        """See `Kept.advice`."""
        return f"python benchmarks/frontier.py --case {self.case} --seed {self.seed}"


@dataclass(frozen=True)
class Pruned:
    """A dense network that `torch-pruning` cuts here to as many parameters as another one has.

    Whole units go at once, by the norm of their weights: either ranked over all layers, which may
    leave a layer almost nothing, or in equal shares from each, whichever fits better before further
    training. What is left is trained for a few epochs, and kept beside the frontier's networks.

    Attributes:
        dense: What it starts from.
        like: What it is to be as large as.
    """

    dense: Kept | Start
    like: Kept

    @property
    def case(self) -> str:
        """See `Kept.case`."""
        return self.dense.case

    @property
    def method(self) -> str:
        """See `Kept.method`."""
        size, start = self.like.method, self.dense.method
        return f"{TORCH_PRUNING} to the size of '{size}', {EPOCHS} epochs after '{start}'"

    @property
    def seed(self) -> int:
        """See `Kept.seed`."""
        return self.dense.seed

    def recipe(self) -> dict[str, Any]:
        """See `Kept.recipe`."""
        runs = {"dense": self.dense.recipe(), "like": self.like.recipe()}
        return {**runs, "norm": NORM, "epochs": EPOCHS, "lr": LR}

    def compressed(self) -> Compressed | None:
        """See `Kept.compressed`."""
        dense, like = self.dense.net(), self.like.compressed()
        if dense is None or like is None or find_spec("torch_pruning") is None:
            return None
        train = _train(self.case)
        path = self._path(dense, like.report.parameters)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _all_of(self._tuned(dense, like.report.parameters, train), train).save(path)
        return _all_of(load(path), train)

    def advice(self) -> str:
        """See `Kept.advice`."""
        first = " and ".join(network.advice() for network in (self.dense, self.like))
        return f"{first}, with the extra bench-peers installed"

    def _path(self, dense: nn.Module, parameters: int) -> Path:
        digest = start_digest(dense)[:12]
        name = f"{digest}-{parameters}_parameters-{EPOCHS}_epochs-{self.seed}.ptv"
        return cases.CACHE / "take_home" / self.case / name

    def _tuned(self, dense: nn.Module, parameters: int, train: TensorPair) -> nn.Module:
        net = copy.deepcopy(dense).requires_grad_(True)
        loss = loss_on(train.x[:QUANTISED_ON], train.y[:QUANTISED_ON], None)
        small = min((_pruned(net, parameters, train, how) for how in (True, False)), key=loss)
        batch, device = CASES[self.case].batch, torch.device("cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            task = Task(small.train().requires_grad_(True), train, EPOCHS, batch, self.seed, device)
            optimise(task, small.parameters(), cross_entropy(small), lr=LR)
        return small.eval()


#: What can be taken home.
Network: TypeAlias = Kept | Start | Pruned


def usual(case: str, seed: int, epochs: int | None = None) -> Iterator[Network]:
    """The networks that are measured if nothing else is asked for: dense, ours, pruned.

    Where the frontier does not keep its dense network, the common start stands for it. It is pruned
    here to the sizes of our largest and of our smallest network of those that are kept of the most
    seeds, beside what the frontier keeps of torch-pruning.

    Args:
        case: Name of the case.
        seed: Seed.
        epochs: Those of a trial; None for the case's own.

    Yields:
        The networks, whether they are there or not.
    """
    names = filter(_is_ours, methods_of(case))
    dense, *ours = [Kept(Run(case, n, seed, epochs=epochs)) for n in (DENSE, *names)]
    pruned = [Kept(Run(case, n, seed, epochs=epochs)) for n in methods_of(case) if _is_pruned(n)]
    start = dense if _is_kept(dense) else Start(case, seed)
    yield dense
    if start is not dense:
        yield start
    yield from ours
    yield from pruned
    often = [network for network in ours if _kept_seeds(network) == max(map(_kept_seeds, ours))]
    for like in dict.fromkeys([often[0], often[-1]]):
        yield Pruned(start, like)


def every(case: str, seed: int) -> Iterator[Network]:
    """All networks of a seed that tables show: those of `usual`, whatever is kept, and more.

    Args:
        case: Name of the case.
        seed: Seed.

    Yields:
        The networks, whether they are there or not.
    """
    kept_ones = {name: Kept(Run(case, name, seed)) for name in methods_of(case)}
    ours = [network for name, network in kept_ones.items() if _is_ours(name)]
    starts: list[Kept | Start] = [kept_ones.pop(DENSE), Start(case, seed)]
    yield from starts
    yield from ours
    yield from (network for network in kept_ones.values() if network not in ours)
    yield from (Pruned(start, like) for start in starts for like in ours)


def _is_ours(method: str) -> bool:
    return method.startswith(FULL)


def _is_pruned(method: str) -> bool:
    return method.startswith(TORCH_PRUNING)


def _is_kept(network: Kept) -> bool:
    return network.run.cache.exists()


def _kept_seeds(network: Kept) -> int:
    return sum(_is_kept(Kept(replace(network.run, seed=seed))) for seed in SEEDS)


def _pruned(net: nn.Module, parameters: int, train: TensorPair, together: bool) -> nn.Module:
    """The smaller network that is left of a dense one, its weights as they were."""
    masks = masks_within(parameters, net, train.x[:2], NORM, together=together)
    return compress(net, masks, train.x[:VERIFIED], measure_latency=False).module


def _all_of(net: nn.Module, train: TensorPair) -> Compressed:
    """A network of which all is kept."""
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights_of(net).items()}
    return compress(net, masks, train.x[:VERIFIED], measure_latency=False)


def _train(case: str) -> TensorPair:
    return cases.parts(case, "final")[0]
