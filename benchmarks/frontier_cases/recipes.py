"""Methods that are a prior and an engine of the package: ours, and the published recipe."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import pyro
import torch
from torch import nn

import pyro_turbovbi as ptv
from benchmarks.frontier_cases.teachers import EPOCHS, LR, taught
from benchmarks.frontier_cases.training import Method, Task, Trained
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.engines.protocol import AnyEngine
from pyro_turbovbi.engines.turbo.settings import SpikeAnnealing
from pyro_turbovbi.priors.base import Prior
from pyro_turbovbi.priors.selection import BySite


@dataclass(frozen=True)
class Recipe:
    """A prior, an engine, and how much of the posterior is kept.

    Attributes:
        prior: Prior of all weights.
        engine: How it is fitted.
        epochs: Passes over the data; None: the case's, as all methods.
        keep: Share of weights to keep; None: what the posterior says.
        teachers: Number of dense networks whose belief is taught in the place of labels.
    """

    prior: Prior | BySite
    engine: AnyEngine
    epochs: int | None = None
    keep: float | None = None
    teachers: int = 0

    def train(self, task: Task) -> Trained:
        """See `Method.train`."""
        data, seconds = taught(task, self.teachers)
        torch.manual_seed(task.seed)
        with pyro.validation_enabled(False):
            fit = ptv.fit(
                self._lifted(task.net),
                data,
                engine=self.engine,
                epochs=self.epochs or task.epochs,
                batch_size=task.batch,
                seed=task.seed,
                device=task.device,
                progress=False,
            )
            return Trained.of(
                fit.mean_net(),
                fit.masks(self.keep),
                fit.posterior.scale(),
                elbo=fit.elbo,
                teacher_seconds=seconds,
            )

    def described(self) -> dict[str, Any]:
        """See `Method.described`."""
        engine = self.engine
        if isinstance(engine, engines.Turbo):  # with what its defaults are at present
            engine = engine.completed(SimpleNamespace(likelihood=likelihoods.Categorical()))
        return {
            "method": "recipe",
            "prior": priors.to_spec(self.prior),
            "components": _components(self.prior),
            "engine": {"kind": type(engine).__name__, **_plain(engine)},
            "epochs": self.epochs,
            "keep": self.keep,
            "teachers": [self.teachers, EPOCHS, LR] if self.teachers else None,
        }

    def _lifted(self, net: nn.Module) -> ptv.BayesianNet:
        return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=self.prior)


def _components(prior: Prior | BySite) -> Any:
    """Concentrations and rates of three-layer priors for weights whose unit of scale is 1."""
    if isinstance(prior, BySite):
        every = [*(one for _, one in prior.patterns), prior.default]
        return [_components(one) for one in every if one is not None]
    if isinstance(prior, priors.ThreeLayer):
        return _plain(replace(prior, scale=1.0).components(torch.Size([1, 1])))
    return None


def _plain(value: Any) -> Any:
    """Settings as JSON; what is no number, text or setting by its type's name."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return type(value).__name__


#: Most rows were trained before inactive means were held at zero late in a training, which is the
#: default now, and which networks with batch normalisation need.
UNSETTLED = engines.ModelReduction(settle=1.0)


def turbo(**settings: Any) -> engines.Turbo:
    """The engine with the schedule that all our rows share, and settings of their own."""
    shared: dict[str, Any] = {"annealing": SpikeAnnealing(until=0.9), "reduction": UNSETTLED}
    return engines.Turbo(**shared | settings)


#: Dense networks whose belief is taught.
TEACHERS = 3
CHAIN = supports.Chain(0.05, mean_run=5.0)
GRID = supports.Grid(0.05, mean_run=(10.0, 10.0))
#: A unit costs about 46 nats, whatever its weights say.
GATES: dict[str, Any] = {"gates": "shared", "gate_density": 1e-20}
RESHAPING: dict[str, Any] = {"reorder_every": 2, "compact_every": 2}

FULL = "ours, gates + order"
NARROW = f"{FULL}, narrow"
GRID_ORDER = "ours, grid + order"


def ours(support: supports.Support, prior: dict[str, Any], **settings: Any) -> Recipe:
    """A recipe of ours, with teachers."""
    return Recipe(priors.ThreeLayer(support=support, **prior), turbo(**settings), teachers=TEACHERS)


def full(compression: float, prior: dict[str, Any] = GATES, **settings: Any) -> Recipe:
    """The full method: row chains behind shared gates, re-ordering and compaction."""
    return ours(CHAIN, prior, compression=compression, gates_from=0.15, **RESHAPING, **settings)


def narrow(compression: float) -> Recipe:
    """The full method at 115 nats a unit, with a twentieth of the loss of a hidden one."""
    gates = GATES | {"gate_density": 1e-50}
    return full(compression, gates, reduction=replace(UNSETTLED, unit_loss=0.05))


#: Our method, one ingredient more in every row; all with model reduction and teachers.
OURS: dict[str, Recipe] = {
    "ours, independent, medium": ours(supports.Independent(0.05), {}, compression=0.7),
    "ours, independent": ours(supports.Independent(0.05), {}),
    "ours, chain": ours(CHAIN, {}),
    "ours, chain, large": ours(CHAIN, {}, compression=0.3, compact_every=2),
    "ours, gates": ours(CHAIN, GATES, gates_from=0.15),
    f"{GRID_ORDER}, largest": ours(GRID, {}, compression=0.8, **RESHAPING),
    f"{GRID_ORDER}, large": ours(GRID, {}, compression=1.2, **RESHAPING),
    GRID_ORDER: ours(GRID, {}, compression=1.5, **RESHAPING),
    f"{FULL}, low error": full(0.2),
    f"{FULL}, largest": full(0.3),
    f"{FULL}, large": full(0.5),
    f"{FULL}, medium": full(0.7),
    FULL: full(1.0),
    f"{FULL}, small": full(2.0),
    NARROW: narrow(0.4),
    "ours, independent, no teachers": replace(
        ours(supports.Independent(0.05), {}, **RESHAPING), teachers=0
    ),
    f"{FULL}, largest, no teachers": replace(full(0.3), teachers=0),
    f"{FULL}, large, no teachers": replace(full(0.5), teachers=0),
    f"{FULL}, medium, no teachers": replace(full(0.7), teachers=0),
    f"{FULL}, no teachers": replace(full(1.0), teachers=0),
    f"{FULL}, small, no teachers": replace(full(2.0), teachers=0),
    f"{FULL}, settled, no teachers": replace(
        full(1.0, reduction=engines.ModelReduction()), teachers=0
    ),
    f"{NARROW}, no teachers": replace(narrow(0.4), teachers=0),
}

#: What tuning tries for the full method.
OURS_CANDIDATES: dict[str, dict[str, Method]] = {
    FULL: {f"compression {c:g}": full(c) for c in (0.5, 0.7, 1.0, 1.5)}
}


def ablations(full: Recipe) -> dict[str, Recipe]:
    """A recipe of ours with one ingredient in another state, by what has changed.

    The mean-field factorisation has neither gates nor re-ordering nor compaction, EM has no gates.
    """
    prior, engine = full.prior, full.engine
    assert isinstance(prior, priors.ThreeLayer)
    assert isinstance(engine, engines.Turbo)
    plain = replace(engine, compact_every=None, reorder_every=None)
    still = replace(engine.annealing, start=1.0)
    bare = replace(full, prior=replace(prior, gates=None))
    mean_field = replace(plain, factorisation="mean_field", start="active")
    return {
        "mean field": replace(bare, engine=mean_field),
        "without annealing": replace(full, engine=replace(engine, annealing=still)),
        "without gates": bare,
        "without gates, with EM": replace(bare, engine=replace(engine, learn_hyper=True)),
        "without re-ordering": replace(full, engine=replace(engine, reorder_every=None)),
        "scales by the weights' rms": replace(full, prior=replace(prior, scale="rms")),
        "without model reduction": replace(
            full, engine=replace(engine, reduction=engines.ModelReduction(strength=0.0))
        ),
        "without teachers": replace(full, teachers=0),
        "without compaction": replace(full, engine=replace(engine, compact_every=None)),
    }


#: As published: mean field under a grid, no annealing, the KL term as it is.
PUBLISHED: dict[str, Recipe] = {
    f"mean field, from {start}": Recipe(
        priors.ThreeLayer(support=supports.Grid(0.05, mean_run=(10.0, 10.0))),
        engines.Turbo(
            factorisation="mean_field",
            annealing=SpikeAnnealing(start=1.0),
            kl_weight=1.0,
            start=start,
        ),
    )
    for start in ("active", "inactive")
}
