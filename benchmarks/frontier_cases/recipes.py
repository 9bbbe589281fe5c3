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
    """

    prior: Prior | BySite
    engine: AnyEngine
    epochs: int | None = None
    keep: float | None = None

    def train(self, task: Task) -> Trained:
        """See `Method.train`."""
        with pyro.validation_enabled(False):
            fit = ptv.fit(
                self._lifted(task.net),
                task.train,
                engine=self.engine,
                epochs=self.epochs or task.epochs,
                batch_size=task.batch,
                seed=task.seed,
                device=task.device,
                progress=False,
            )
            return Trained.of(
                fit.mean_net(), fit.masks(self.keep), fit.posterior.scale(), elbo=fit.elbo
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


def turbo(**settings: Any) -> engines.Turbo:
    """The engine with the schedule that all our rows share, and settings of their own."""
    shared = {"annealing": SpikeAnnealing(start=10.0, until=0.9), "kl_weight": 0.2}
    return engines.Turbo(**{**shared, **settings})


def three_layer(support: supports.Support, **settings: Any) -> priors.ThreeLayer:
    """The prior with the scales that all our rows share, and settings of its own."""
    return priors.ThreeLayer(support=support, **{"scale": "rms", **settings})


CHAIN = supports.Chain(0.05, mean_run=5.0)
GRID = supports.Grid(0.05, mean_run=(5.0, 5.0))
GATES: dict[str, Any] = {"gates_from": 0.15}
ORDER: dict[str, Any] = {"reorder_every": 2}
COMPACTION: dict[str, Any] = {"compact_every": 2}

FULL = "ours, gates + order"
#: Our method, one ingredient more in every row.
OURS: dict[str, Recipe] = {
    "ours, independent": Recipe(three_layer(supports.Independent(0.05)), turbo()),
    "ours, chain": Recipe(three_layer(CHAIN), turbo()),
    "ours, grid": Recipe(three_layer(GRID), turbo()),
    "ours, gates": Recipe(three_layer(CHAIN, gates="shared"), turbo(**GATES)),
    FULL: Recipe(three_layer(CHAIN, gates="shared"), turbo(**GATES, **ORDER, **COMPACTION)),
}

#: What tuning tries for the full method.
OURS_CANDIDATES: dict[str, dict[str, Method]] = {
    FULL: {
        f"kl weight {weight:g}": replace(
            OURS[FULL], engine=turbo(**GATES, **ORDER, **COMPACTION, kl_weight=weight)
        )
        for weight in (0.1, 0.2, 0.3, 0.5)
    }
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
