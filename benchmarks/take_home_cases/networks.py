"""What is measured: networks that the frontier benchmark keeps, and ones pruned from them here."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from benchmarks.frontier_cases import cases
from benchmarks.frontier_cases.cases import CASES
from benchmarks.frontier_cases.measure import VERIFIED, cut
from benchmarks.frontier_cases.methods import (
    DENSE,
    TORCH_PRUNING,
    ablations_of,
    methods_of,
)
from benchmarks.frontier_cases.peers import TorchPruning
from benchmarks.frontier_cases.recipes import FULL
from benchmarks.frontier_cases.runs import Run, kept
from benchmarks.frontier_cases.training import Task, Trained, cross_entropy, optimise, weights_of
from pyro_turbovbi.compression import Compressed, compress, load
from pyro_turbovbi.data import TensorPair
from pyro_turbovbi.training import start_digest

#: Epochs of fine-tuning, and their first learning rate, of what is pruned here.
EPOCHS, LR = 5, 1e-3
#: An ablation that is a method of its own: for those who do not want to train teachers.
WITHOUT_TEACHERS = "without teachers"


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
class Pruned:
    """A dense network that `torch-pruning` cuts here to as many parameters as another one has.

    Whole units go at once, ranked as `TorchPruning` does; the network is cut, and what is left is
    trained for a few epochs. It is kept beside the frontier's networks.

    Attributes:
        dense: The training that it starts from.
        like: The training of the network that it is to be as large as.
    """

    dense: Run
    like: Run

    @property
    def case(self) -> str:
        """See `Kept.case`."""
        return self.dense.case

    @property
    def method(self) -> str:
        """See `Kept.method`."""
        return f"{TORCH_PRUNING} to the parameters of '{self.like.method}', {EPOCHS} epochs"

    @property
    def seed(self) -> int:
        """See `Kept.seed`."""
        return self.dense.seed

    def recipe(self) -> dict[str, Any]:
        """See `Kept.recipe`."""
        runs = {"dense": self.dense.recipe(), "like": self.like.recipe()}
        return {**runs, "epochs": EPOCHS, "lr": LR}

    def compressed(self) -> Compressed | None:
        """See `Kept.compressed`."""
        dense, like = kept(self.dense), kept(self.like)
        if dense is None or like is None or find_spec("torch_pruning") is None:
            return None
        train = _train(self.case)
        path = self._path(dense, parameters := cut(like, train).report.parameters)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _all_of(self._pruned(dense, parameters, train), train).save(path)
        return _all_of(load(path), train)

    def advice(self) -> str:
        """See `Kept.advice`."""
        first = " and ".join(Kept(run).advice() for run in (self.dense, self.like))
        return f"{first}, with the extra bench-peers installed"

    def _path(self, dense: Trained, parameters: int) -> Path:
        digest = start_digest(dense.net)[:12]
        name = f"{digest}-{parameters}_parameters-{EPOCHS}_epochs-{self.seed}.ptv"
        return cases.CACHE / "take_home" / self.case / name

    def _pruned(self, dense: Trained, parameters: int, train: TensorPair) -> nn.Module:
        net = copy.deepcopy(dense.net).requires_grad_(True)
        share = parameters / sum(p.numel() for p in net.parameters())
        masks = TorchPruning(share).masks(net, train.x[:2])
        small = compress(net, masks, train.x[:VERIFIED], measure_latency=False).module
        batch, device = CASES[self.case].batch, torch.device("cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            task = Task(small.train().requires_grad_(True), train, EPOCHS, batch, self.seed, device)
            optimise(task, small.parameters(), cross_entropy(small), lr=LR)
        return small.eval()


#: What can be taken home.
Network: TypeAlias = Kept | Pruned


def usual(case: str) -> list[str]:
    """The methods whose networks are measured if nothing else is asked for: dense, ours, pruned.

    Args:
        case: Name of the case.
    """
    names = list(methods_of(case))
    ours = [*filter(_is_ours, names), WITHOUT_TEACHERS]
    return [DENSE, *ours, *filter(_is_pruned, names)]


def pruned_here(case: str, seed: int, epochs: int | None = None) -> Pruned | None:
    """What is pruned here, if the frontier keeps no network of torch-pruning.

    Args:
        case: Name of the case.
        seed: Seed.
        epochs: Those of a trial; None for the case's own.

    Returns:
        As large as our full method's network; as the first of ours that is kept, if that is not;
            None if the frontier keeps a network of torch-pruning.
    """
    runs = [Run(case, name, seed, epochs=epochs) for name in usual(case)]
    there = [run for run in runs if run.cache.exists()]
    if any(_is_pruned(run.method) for run in there):
        return None
    full = Run(case, FULL, seed, epochs=epochs)
    ours = [run for run in there if _is_ours(run.method)]
    like = full if full in ours else next(iter(ours), full)
    return Pruned(Run(case, DENSE, seed, epochs=epochs), like)


def _is_ours(method: str) -> bool:
    return method.startswith(FULL) or method == WITHOUT_TEACHERS


def _is_pruned(method: str) -> bool:
    return method.startswith(TORCH_PRUNING)


def _all_of(net: nn.Module, train: TensorPair) -> Compressed:
    """A network of which all is kept."""
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights_of(net).items()}
    return compress(net, masks, train.x[:VERIFIED], measure_latency=False)


def _train(case: str) -> TensorPair:
    return cases.parts(case, "final")[0]
