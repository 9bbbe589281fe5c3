"""One contract over all resumable engines: a stored state goes on where the training was.

Two things are tested: that losses and posteriors of all further steps agree bit for bit, and that
nothing which a training changes is forgotten, whether it shows at once or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.batches import Batch
from pyro_turbovbi.engines import Plan
from pyro_turbovbi.engines.protocol import Resumable
from pyro_turbovbi.persistence.container import pack, unpack
from tests.contract.test_engines import guide_of
from tests.contract.test_saving import differences

ROWS, SIZE, STEPS = 48, 12, 24
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(ROWS, 6, generator=GENERATOR)
LABELS = (X[:, 0] > 0).long()
REALS = X[:, 0] - 2 * X[:, 3]


def mlp(hidden: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.1),
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2),
    )  # fmt: skip


def lifted(support: Any, **options: Any) -> ptv.BayesianNet:
    prior = priors.ThreeLayer(support=support, **options)
    return ptv.lift(mlp(), likelihood=likelihoods.Categorical(), prior=prior)


def under(prior: priors.Prior | priors.BySite) -> ptv.BayesianNet:
    return ptv.lift(mlp(), likelihood=likelihoods.Categorical(), prior=prior)


def regression() -> ptv.BayesianNet:
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    prior = priors.ThreeLayer(support=supports.Chain(0.3, 3.0))
    return ptv.lift(net, likelihood=likelihoods.Gaussian(), prior=prior)


CHAIN, GRID = supports.Chain(0.3, 3.0), supports.Grid(0.3, 2.0)
OFTEN = {"messages_every": 3, "refresh_every": 2}
NOW = engines.SpikeAnnealing(start=1.0)
LEARNING = engines.Turbo(learn_hyper=True, annealing=NOW, **OFTEN)  # type: ignore[arg-type]
# Units leave and change places within a few steps: the means of most weights start at zero.
RESTRUCTURING: dict[str, Any] = {
    "annealing": NOW,
    "lr": 0.05,
    "kl_weight": 0.5,
    **OFTEN,
}


def sparse() -> ptv.BayesianNet:
    """A net most of whose weights are inactive from the start."""
    bnn = lifted(CHAIN)
    with torch.no_grad():
        for name in ("0.weight", "4.weight", "6.weight"):
            weight = bnn.net.get_parameter(name)
            weight[:, 3:] = 0.0
            weight[3:] *= float(name == "6.weight")
    return ptv.lift(bnn.net, likelihood=bnn.likelihood, prior=bnn.prior)


@dataclass(frozen=True)
class Case:
    engine: Any
    build: Callable[[], ptv.BayesianNet]
    y: Tensor = LABELS


CASES = {
    "chain": Case(engines.Turbo(**OFTEN), lambda: lifted(CHAIN)),  # type: ignore[arg-type]
    "grid": Case(engines.Turbo(**OFTEN), lambda: lifted(GRID)),  # type: ignore[arg-type]
    "blocks of a grid": Case(
        engines.Turbo(**OFTEN),  # type: ignore[arg-type]
        lambda: lifted(supports.Blocks((2, 2), GRID)),
    ),
    "mean field": Case(
        engines.Turbo(factorisation="mean_field", **OFTEN),  # type: ignore[arg-type]
        lambda: lifted(CHAIN),
    ),
    "shared gates": Case(
        engines.Turbo(gates_from=0.2, **OFTEN),  # type: ignore[arg-type]
        lambda: lifted(CHAIN, gates="shared"),
    ),
    "learning a chain": Case(LEARNING, lambda: lifted(CHAIN)),
    "learning a grid": Case(LEARNING, lambda: lifted(GRID)),
    "learning gates": Case(LEARNING, lambda: lifted(supports.Gated((0.5, 3.0), (0.5, 3.0)))),
    "learning a density": Case(LEARNING, lambda: lifted(supports.Independent(0.3))),
    "normal": Case(engines.Turbo(), lambda: under(priors.Normal(0.5))),
    "regression": Case(engines.Turbo(**OFTEN), regression, REALS),  # type: ignore[arg-type]
    "compaction": Case(engines.Turbo(compact_every=1, **RESTRUCTURING), sparse),
    "new orders": Case(engines.Turbo(compact_every=2, reorder_every=1, **RESTRUCTURING), sparse),
    "auto_normal": Case(engines.SVI(), lambda: under(priors.Normal(0.5))),
    "horseshoe": Case(engines.SVI(), lambda: under(priors.Horseshoe())),
    "auto_low_rank": Case(
        engines.SVI("auto_low_rank_multivariate_normal"), lambda: under(priors.Normal(0.5))
    ),
    "auto_structured": Case(engines.SVI("auto_structured"), lambda: under(priors.Laplace())),
    "relaxed guide": Case(engines.SVI(guide_of("relaxed"), lr=0.01), lambda: lifted(CHAIN)),
    "map": Case(engines.MAP(), lambda: under(priors.GroupLasso())),
}
SLOW = ("auto_structured", "relaxed guide", "horseshoe")
every_case = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CASES]
)


class Run:
    """A training by hand: what `ptv.fit` does, step by step."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(7)
        self.engine, self.bnn, self.y = case.engine, case.build(), case.y
        self.bnn.num_data = ROWS
        plan = Plan(ROWS, STEPS, Batch((X[:SIZE], self.y[:SIZE])))
        self.state: Any = self.engine.init(self.bnn.train(), plan)

    def steps(self, first: int, last: int) -> list[float]:
        losses = []
        for step in range(first, last):
            rows = torch.randperm(ROWS)[:SIZE]
            losses.append(self.engine.step(self.state, Batch((X[rows], self.y[rows]))))
            if step % 4 == 3:
                self.engine.posterior(self.state)
        return losses

    def store(self) -> bytes:
        """All of it, as bytes."""
        random = torch.get_rng_state()
        net = dict(self.bnn.state_dict())
        return pack("run", {"net": net, "state": self.state.state_dict(), "random": random})

    def load(self, content: bytes) -> None:
        saved = unpack("run", content)
        self.bnn.load_state_dict(saved["net"])
        self.state.load_state_dict(saved["state"])
        torch.set_rng_state(saved["random"])

    def end(self) -> list[Any]:
        self.engine.finish(self.state)
        posterior = self.engine.posterior(self.state)
        moments = posterior.moments()
        probs = posterior.support_probs()
        learned, gates = posterior.learned(), posterior.gate_probs()
        return [posterior.draw(), moments, probs, learned, gates, dict(self.bnn.state_dict())]


@every_case
@pytest.mark.parametrize("at", [1, 12])
def test_the_rest_of_a_training_agrees_bit_for_bit(name: str, at: int) -> None:
    """Also in the middle of an antithetic pair of steps."""
    first = Run(CASES[name])
    assert isinstance(first.state, Resumable)
    first.steps(0, at)
    stored = first.store()
    losses, end = first.steps(at, STEPS), first.end()
    second = Run(CASES[name])
    second.load(stored)
    assert second.steps(at, STEPS) == losses
    assert differences(end, second.end()) == []


@every_case
def test_a_run_goes_back_to_a_stored_state(name: str) -> None:
    """Also one whose net has changed its shape since."""
    run = Run(CASES[name])
    run.steps(0, 4)
    stored = run.store()
    for _ in range(2):
        again = run.steps(4, STEPS)
        run.load(stored)
        assert run.store() == stored
    assert run.steps(4, STEPS) == again


#: What a run rebuilds or does not need, by name of the attribute.
REBUILT = {
    "_posterior",  # buffers of Module B, overwritten by the next exchange
    "distribution",  # compared by its parameters
    "model", "guide", "_guide", "svi", "bnn", "example", "_example", "plan", "_groups", "_optim",
    "_whole",
    "_factors", "_factor", "_others", "_optimizer",  # Pyro's and torch's, and their parameters
}  # fmt: skip


def attributes(value: Any, where: str = "", seen: tuple[int, ...] = ()) -> dict[str, Any]:
    """Every tensor, number and string that can be reached, by the way to it."""
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return {where: value.clone() if isinstance(value, Tensor) else value}
    if id(value) in seen:
        return {}
    if isinstance(value, dict):
        parts = {str(key): part for key, part in value.items()}
    elif isinstance(value, list | tuple):
        parts = {str(i): part for i, part in enumerate(value)}
    else:
        own = vars(value) if hasattr(value, "__dict__") else {}
        parts = {key: part for key, part in own.items() if key not in REBUILT}
    found: dict[str, Any] = {}
    for key, part in parts.items():
        found |= attributes(part, f"{where}.{key}", (*seen, id(value)))
    return found


@every_case
def test_nothing_is_forgotten(name: str) -> None:
    first, second = Run(CASES[name]), Run(CASES[name])
    first.steps(0, 12)
    second.load(first.store())
    assert differences(attributes(first.state), attributes(second.state)) == []
    trees = [json.dumps(str(run.state.state_dict())) for run in (first, second)]
    assert trees[0] == trees[1]


@pytest.mark.parametrize("name", ["compaction", "new orders"])
def test_the_cases_do_change_the_shape_of_the_net(name: str) -> None:
    run = Run(CASES[name])
    run.steps(0, 12)
    state = run.state
    assert state.active is not state.whole
    assert state.active.steps_done == 12
    if name == "new orders":
        assert state._reordered > 0


@every_case
def test_learning_rates_are_lowered(name: str) -> None:
    """A rate of zero from the middle of a training on: nothing moves any more."""
    run = Run(CASES[name])
    run.steps(0, 2)
    assert run.state.scale_lr(0.0)
    before = {n: p.detach().clone() for n, p in run.bnn.points.items()}
    run.steps(2, 4)
    for point, value in run.bnn.points.items():
        assert torch.equal(value.detach(), before[point])
