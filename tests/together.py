"""Trainings in several processes: run by `test_distributed` under `torchrun`, and alone.

    torchrun --standalone --nproc-per-node 2 -m tests.together DIRECTORY

Importing takes seconds and a training a fraction of one: the same processes run all cases. Each
writes what it has seen to `DIRECTORY/RANK.pt`. The last case ends one of them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_turbovbi as ptv
from pyro_turbovbi import distributed, engines, likelihoods, priors, supports
from pyro_turbovbi.errors import TurboVBIError, TurboVBIWarning
from tests.terminals import Terminal

#: Rows of the data; the last batch of an epoch is smaller than there are processes.
ROWS, BATCH, EPOCHS = 65, 16, 3
CHAIN = priors.ThreeLayer(support=supports.Chain(0.3, 3.0))
GRID = priors.ThreeLayer(support=supports.Grid(0.3, 2.0))
GATES = priors.ThreeLayer(support=supports.Chain(0.3, 3.0), gates="shared", gate_density=0.5)
OFTEN: dict[str, Any] = {"messages_every": 3, "refresh_every": 2}


def points(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 12, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 1).long()


def mlp(*between: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Linear(12, 10, bias=not between), *between, nn.ReLU(), nn.Linear(10, 6), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(6, 3))


def train(net: nn.Module, prior: priors.Prior = CHAIN, data: Any = None, **options: Any) -> ptv.Fit:
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    settings: dict[str, Any] = {
        "engine": engines.Turbo(**OFTEN), "epochs": EPOCHS, "batch_size": BATCH, "seed": 3,
        "progress": False, "device": "cpu",
    }  # fmt: skip
    return ptv.fit(bnn, points() if data is None else data, **(settings | options))


def shuffled() -> Any:
    data = TensorDataset(*points())
    return DataLoader(data, BATCH, shuffle=True, generator=torch.Generator().manual_seed(5))


RESTRUCTURING = engines.Turbo(**OFTEN, compact_every=1, reorder_every=2)
#: Trainings that must come out as those of one process.
SAME: dict[str, Callable[[], ptv.Fit]] = {
    "chain": lambda: train(mlp()),
    "grid": lambda: train(mlp(), GRID),
    "gates": lambda: train(mlp(), GATES),
    "learned": lambda: train(
        mlp(),
        engine=engines.Turbo(
            **OFTEN, learn_hyper=True, annealing=engines.SpikeAnnealing(start=1.0)
        ),
    ),
    "restructured": lambda: train(mlp(), GATES, engine=RESTRUCTURING, epochs=6),
    "batch statistics": lambda: train(mlp(nn.BatchNorm1d(10)), data=points(ROWS + 1)),
    "lean": lambda: train(mlp(), engine=engines.Turbo(messages_every=3, lean=True)),
    "loader": lambda: train(mlp(), data=shuffled()),
}


def seen(fit: ptv.Fit) -> dict[str, Tensor]:
    """What two trainings must agree in."""
    found = {"elbo": torch.tensor(fit.elbo), "losses": torch.tensor(fit.history.elbo)}
    kinds = {
        "mean": fit.posterior.mean(), "scale": fit.posterior.scale() or {},
        "support": fit.posterior.support_probs() or {}, "net": fit.bnn.state_dict(),
    }  # fmt: skip
    for kind, tensors in kinds.items():
        found |= {f"{kind} {name}": tensor.detach() for name, tensor in tensors.items()}
    return found


class Breaking(nn.Module):
    """A net that has no finite output for one data point, once it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        output = self.net(x)
        return output.where(x[:, :1] < 100.0, torch.nan) if self.training else output


def broken() -> ptv.Fit:
    x, y = points(16)
    x[-1] = 1000.0
    return train(Breaking(), data=DataLoader(TensorDataset(x, y), BATCH))


def unlike() -> ptv.Fit:
    net = mlp()
    with torch.no_grad():
        next(net.parameters()).add_(distributed.World.current().rank)
    return train(net)


def drifting() -> ptv.Fit:
    def draw(_record: object, _snapshot: object) -> None:
        if not distributed.is_first():
            torch.randn(1)

    return train(mlp(), callbacks=[draw])


def failing() -> None:
    def fail() -> None:
        raise ptv.errors.StorageError("no room", given={"left": 0}, accepted=["some"])

    distributed.World.current().first_one(fail)


def deserted() -> None:
    if not distributed.is_first():
        os._exit(0)
    distributed.World.current().add(torch.zeros(3))


#: What must end with an error, in all processes.
FAILING: dict[str, Callable[[], object]] = {
    "svi": lambda: train(mlp(), priors.Normal(), engine=engines.SVI()),
    "map": lambda: train(mlp(), priors.Normal(), engine=engines.MAP()),
    "nuts": lambda: train(mlp(), priors.Normal(), engine=engines.NUTS(num_samples=2, warmup=1)),
    "exact": lambda: train(mlp(), engine=engines.Turbo(weights="exact")),
    "broken": broken,
    "unlike": unlike,
    "drifting": drifting,
    "failing": failing,
    "deserted": deserted,
}


def error_of(task: Callable[[], object]) -> str:
    try:
        task()
    except TurboVBIError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


class InterruptionError(Exception):
    """Ends a training."""


def interrupted(directory: Path) -> None:
    """A training that ends early, in all processes, and leaves checkpoints."""

    def stop(record: ptv.EpochRecord, _snapshot: object) -> None:
        if record.epoch == 2:
            raise InterruptionError

    try:
        resumed(directory, callbacks=[stop])
    except InterruptionError:
        return


def resumed(directory: Path | None, **options: Any) -> ptv.Fit:
    net = mlp(nn.Dropout(0.0))
    kept = None if directory is None else ptv.Checkpoints(directory, validation=points(20))
    return train(net, checkpoint=kept, **options)


def main(directory: Path) -> None:
    warnings.simplefilter("error")
    warnings.simplefilter("always", TurboVBIWarning)
    world = distributed.init(timeout=60)
    found: dict[str, Any] = {"world": [world.rank, world.size]}
    torch.set_default_dtype(torch.float64)
    found |= {name: seen(task()) for name, task in SAME.items()}
    found["dropout"] = seen(train(mlp(nn.Dropout(0.5))))
    interrupted(directory / "checkpoints")
    torch.set_default_dtype(torch.float32)
    with contextlib.redirect_stderr(Terminal()) as bar:
        found["single precision"] = seen(train(mlp(), progress=True))
    found["bar"] = bar.getvalue()
    found["told"] = world.told({"a": [world.rank, torch.full((2,), float(world.rank))]}, source=1)
    found["errors"] = {}
    for name, task in FAILING.items():
        found["errors"][name] = error_of(task)
        torch.save(found, directory / f"{world.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
