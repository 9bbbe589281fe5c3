"""Counting floats: by hand, and against everything that is reachable from a run."""

from __future__ import annotations

import gc
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.engines import ModelReduction, TurboSettings, TurboVBI
from pyro_turbovbi.engines.turbo.lean import LeanTurboVBI
from pyro_turbovbi.engines.turbo.memory import MemoryReport, memory_report

ROWS, INPUTS, UNITS, CLASSES = 6, 40, 30, 5
WEIGHTS = INPUTS * UNITS + UNITS * CLASSES
CHAIN = priors.ThreeLayer(support=supports.Chain(0.3, 3.0))
GRID = priors.ThreeLayer(support=supports.Grid(0.3, 2.0))
SHARED = priors.ThreeLayer(support=supports.Chain(0.3, 3.0), gates="shared")
NORMAL = priors.Normal(0.3)
NO_REDUCTION = ModelReduction(strength=0.0)


def run(make: type[TurboVBI], prior: priors.Prior, reduction: ModelReduction) -> TurboVBI:
    """Two steps of a training with an exchange every fifth: an exchange is not due."""
    net = nn.Sequential(
        nn.Linear(INPUTS, UNITS, bias=False), nn.ReLU(), nn.Linear(UNITS, CLASSES, bias=False)
    )
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    settings = TurboSettings(reduction=reduction, messages_every=5)
    turbo = make(bnn, settings=settings, num_steps=100)
    for _ in range(2):
        turbo.step(torch.randn(ROWS, INPUTS), torch.arange(ROWS) % CLASSES)
    return turbo


def reachable(turbo: TurboVBI) -> dict[int, int]:
    """Floats of every storage that can be reached from a run, by its address."""
    found: dict[int, int] = {}
    seen, front = {id(turbo)}, [turbo]
    while front:
        thing: Any = front.pop()
        if isinstance(thing, Tensor):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes() // thing.element_size()
            front += [t for t in (thing.grad,) if t is not None]
        for other in gc.get_referents(thing):
            if id(other) not in seen and not isinstance(other, type | ModuleType | FunctionType):
                seen.add(id(other))
                front.append(other)
    return found


def counted(report: MemoryReport) -> dict[str, float]:
    return {kind: round(floats, 1) for kind, floats in report.per_weight.items()}


OWN = {"mu and ln sigma": 2, "optimizer": 4}
ORDINARY = {"noise": 1, "gradients": 2}
NET = {"the network's own weights": 1}
LAYERS = {"log-odds of q(s), for the guide": 1, "q(s) and E[rho]": 2}


def test_the_ordinary_mode_by_hand() -> None:
    """A chain needs no messages beside logit(pi); a grid keeps two more for a warm start."""
    report = memory_report(run(TurboVBI, CHAIN, NO_REDUCTION))
    results = {"message passing's results": 3}
    assert counted(report) == OWN | {"messages": 1} | LAYERS | results | ORDINARY | NET
    assert report.weights == WEIGHTS
    assert report.total == 17
    with_reduction = memory_report(run(TurboVBI, CHAIN, ModelReduction()))
    assert with_reduction.total == report.total + 2
    normal = memory_report(run(TurboVBI, NORMAL, NO_REDUCTION))
    assert counted(normal) == OWN | ORDINARY | NET


def test_the_lean_mode_by_hand() -> None:
    report = memory_report(run(LeanTurboVBI, CHAIN, NO_REDUCTION))
    kept = OWN | {"messages": 1, "log-odds of q(s), for the guide": 1}
    assert counted(report) == kept | NET
    assert report.total - NET["the network's own weights"] == 8
    reduction = {"model reduction": 2}
    assert (
        counted(memory_report(run(LeanTurboVBI, CHAIN, ModelReduction()))) == kept | NET | reduction
    )
    assert counted(memory_report(run(LeanTurboVBI, NORMAL, NO_REDUCTION))) == OWN | NET


@pytest.mark.parametrize("prior", [CHAIN, GRID, SHARED, NORMAL], ids=repr)
@pytest.mark.parametrize("make", [TurboVBI, LeanTurboVBI])
def test_nothing_large_is_forgotten(make: type[TurboVBI], prior: priors.Prior) -> None:
    """Every tensor that a run holds is in the count; beside it are scalars, units and the batch."""
    turbo = run(make, prior, ModelReduction(unit_loss=0.5))
    total, held = sum(memory_report(turbo).held.values()), list(reachable(turbo).values())
    weights = sum(floats for floats in held if floats in (INPUTS * UNITS, UNITS * CLASSES))
    units = sum(floats for floats in held if floats <= INPUTS)
    assert weights <= total <= weights + units


def test_a_report_reads_as_a_table() -> None:
    lines = str(memory_report(run(LeanTurboVBI, CHAIN, NO_REDUCTION))).splitlines()
    assert lines[0] == "floats a weight, 1,350 weights"
    assert lines[-1].split() == ["total", "9.00"]
