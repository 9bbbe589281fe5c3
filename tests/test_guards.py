"""Steps that are not finite are undone; empty and dense layers are reported."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, guards, likelihoods, priors, supports
from pyro_turbovbi.batches import Batch
from pyro_turbovbi.errors import NumericalError, TrainingWarning
from pyro_turbovbi.guards import check_supports
from pyro_turbovbi.posterior import DiagonalPosterior
from tests.contract.test_saving import differences

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 5, generator=GENERATOR)
Y = (X[:, 0] > 0).long()
CHAIN = priors.ThreeLayer(support=supports.Chain(0.3, 3.0))
ENGINES: dict[str, tuple[Any, priors.Prior]] = {
    "turbo": (engines.Turbo(lr=0.004), CHAIN),
    "svi": (engines.SVI(lr=0.01), priors.Normal(1.0)),
    "map": (engines.MAP(lr=0.01), priors.Normal(1.0)),
}
every_engine = pytest.mark.parametrize("name", ENGINES)


class Poisoned(torch.autograd.Function):
    """The identity, with gradients that are not finite."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_context: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * math.nan


class Faults:
    """When a net fails, and how: in some of the steps of a process, counted from 1."""

    def __init__(self, steps: set[int], what: str) -> None:
        self.steps, self.what, self.step = steps, what, 0

    def __deepcopy__(self, memo: Any) -> Faults:
        return self

    def __call__(self, out: Tensor) -> Tensor:
        if self.step not in self.steps:
            return out
        poisoned: Tensor = out * math.nan if self.what == "loss" else Poisoned.apply(out)
        return poisoned


class Fragile(nn.Module):
    """A net with faults."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self.linear, self.faults = nn.Linear(5, 2), faults

    def forward(self, x: Tensor) -> Tensor:
        return self.faults(self.linear(x))


def counting(engine: Any, faults: Faults) -> Any:
    """The engine; its steps are counted."""

    class Counting(type(engine)):  # type: ignore[misc]
        def step(self, state: Any, batch: Any) -> float:
            faults.step += 1
            loss: float = super().step(state, batch)
            return loss

    Counting.__qualname__, Counting.__module__ = type(engine).__qualname__, type(engine).__module__
    settings = {f.name: getattr(engine, f.name) for f in dataclasses.fields(engine) if f.init}
    return Counting(**settings)


def train(engine: Any, prior: priors.Prior, faults: Faults, **options: Any) -> ptv.Fit:
    torch.manual_seed(1)
    bnn = ptv.lift(Fragile(faults), likelihood=likelihoods.Categorical(), prior=prior)
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 16, "progress": False, "device": "cpu"}
    with pyro_may_warn():
        return ptv.fit(bnn, (X, Y), engine=counting(engine, faults), **(settings | options))


@contextmanager
def pyro_may_warn() -> Iterator[None]:
    """Stock Pyro warns of losses that are NaN, before we stop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered NaN")
        yield


@every_engine
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_one_step_that_is_not_finite_is_undone(name: str, what: str) -> None:
    """From the epoch's start it goes on with a tenth of the learning rates, with one warning."""
    faults = Faults({7}, what)
    with pytest.warns(TrainingWarning) as caught:
        fit = train(*ENGINES[name], faults)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith("epoch 2: the ")
    assert "not finite" in message
    assert message.endswith("goes on from step 4, with learning rates 0.1 times as large")
    assert len(fit.history) == 4
    assert all(math.isfinite(record.loss) for record in fit.history)
    assert faults.step == 4 * 4 + 3, "three of the steps were taken twice"
    whole = train(*ENGINES[name], Faults(set(), what))
    assert fit.history[0].loss == whole.history[0].loss
    assert fit.history[1].loss != whole.history[1].loss
    for value in fit.posterior.mean().values():
        assert value.isfinite().all()


@every_engine
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_the_second_time_it_is_an_error_that_says_where(name: str, what: str) -> None:
    with pytest.warns(TrainingWarning, match="epoch 2"), pytest.raises(NumericalError) as error:
        train(*ENGINES[name], Faults({7, 14}, what))
    message = str(error.value)
    assert message.startswith(f"epoch 3: the {what}")
    if what == "gradient":
        site = {"turbo": "weight 'linear.weight'"}.get(name, "guide.")
        assert site in message
    assert "not finite" in message
    assert "; accepted: a smaller lr" in message


def test_an_optimiser_of_the_users_own_is_not_touched() -> None:
    engine = engines.SVI(optim=pyro.optim.Adam({"lr": 0.01}))
    with pytest.raises(NumericalError, match="epoch 2: the gradient of guide"):
        train(engine, priors.Normal(), Faults({7}, "gradient"))


def test_a_step_that_fails_changes_no_parameter() -> None:
    faults = Faults({1}, "gradient")
    bnn = ptv.lift(Fragile(faults), likelihood=likelihoods.Categorical(), prior=CHAIN)
    run = ptv.TurboVBI(bnn)
    run.step(X, Y)
    before = {name: p.detach().clone() for name, p in run.guide.named_parameters()}
    points = {name: p.detach().clone() for name, p in bnn.points.items()}
    faults.step = 1
    with pytest.raises(NumericalError, match=r"'linear\.weight' is not finite at step 1.*10 of 10"):
        run.step(X, Y)
    assert differences(before, dict(run.guide.named_parameters())) == []
    assert differences(points, bnn.points) == []


def test_a_recovery_is_the_same_with_and_without_an_interruption(tmp_path: Path) -> None:
    """What was lowered stays lowered, and is not lowered again."""
    with pytest.warns(TrainingWarning):
        whole = train(*ENGINES["turbo"], Faults({7}, "loss"))

    def stop(record: ptv.EpochRecord, _snapshot: object) -> None:
        if record.epoch == 4:
            raise KeyboardInterrupt

    faults = Faults({7}, "loss")
    with pytest.warns(TrainingWarning), pytest.raises(KeyboardInterrupt):
        train(*ENGINES["turbo"], faults, checkpoint=tmp_path, callbacks=[stop])
    again = train(*ENGINES["turbo"], Faults(set(), "loss"), checkpoint=tmp_path)
    assert again.history.elbo == whole.history.elbo
    assert differences(again.posterior.mean(), whole.posterior.mean()) == []


class Branches(nn.Module):
    """A main path and a branch beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.branch = nn.Linear(20, 2), nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x) + self.branch(x)
        return out


INPUTS = torch.randn(64, 20, generator=GENERATOR)
BATCH = Batch((INPUTS, (INPUTS[:, 0] > 0).long()))


def fitted(net: nn.Module, probs: dict[str, Tensor], loc: dict[str, Tensor]) -> ptv.Fit:
    """A fit whose posterior is given."""
    prior = priors.ThreeLayer(support=supports.Chain(0.05))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    fit = ptv.fit(bnn, tuple(BATCH), epochs=1, progress=False, device="cpu")
    scales = {name: torch.full_like(value, 0.1) for name, value in loc.items()}
    return dataclasses.replace(fit, posterior=DiagonalPosterior(loc, scales, probs))


def weights(net: nn.Module, size: float) -> dict[str, Tensor]:
    return {n: torch.full_like(p, size) for n, p in net.named_parameters() if p.dim() > 1}


def supports_of(net: nn.Module, **left: float) -> dict[str, Tensor]:
    """Support probabilities: of every weight, the first share of its rows and columns is left."""
    found = {}
    for name, like in weights(net, 0.0).items():
        flat = torch.zeros(like.numel())
        flat[: round(left.get(name.split(".")[0], 1.0) * like.numel())] = 1.0
        found[name] = flat.view_as(like)
    return found


def test_an_empty_layer_that_the_net_relied_on_is_reported() -> None:
    net = Branches()
    loc = {name: torch.randn(2, 20, generator=GENERATOR) for name in weights(net, 0.0)}
    fit = fitted(net, supports_of(net, branch=0.0), loc)
    with pytest.warns(TrainingWarning, match=r"no weight of 'branch\.weight' is left") as found:
        check_supports(fit, BATCH, guards.FEWEST_STEPS)
    assert len(found) == 1
    message = str(found[0].message)
    assert "without its inactive weights has a log-likelihood of" in message
    assert "likely cause: a support prior or shared gates that are too sparse" in message


def test_a_net_that_has_become_constant_is_reported() -> None:
    net = nn.Linear(20, 2)
    fit = fitted(net, {"weight": torch.zeros(2, 20)}, weights(net, 1e-6))
    with pytest.warns(TrainingWarning, match="does not depend on its inputs"):
        check_supports(fit, BATCH, guards.FEWEST_STEPS)


def test_a_branch_may_go() -> None:
    net = Branches()
    loc = {
        "main.weight": torch.randn(2, 20, generator=GENERATOR), "branch.weight": torch.zeros(2, 20)
    }  # fmt: skip
    fit = fitted(net, supports_of(net, branch=0.0), loc)
    check_supports(fit, BATCH, guards.FEWEST_STEPS)


def test_a_large_layer_that_stayed_dense_is_reported() -> None:
    net = nn.Sequential(nn.Linear(20, 40), nn.Linear(40, 2))
    loc = weights(net, 0.1)
    probs = {"0.weight": torch.ones(40, 20), "1.weight": torch.ones(2, 40)}
    message = r"100\.0% of the weights of '0\.weight' are left, where the prior expects 5\.0%"
    with pytest.warns(TrainingWarning, match=message) as found:
        check_supports(fitted(net, probs, loc), BATCH, guards.FEWEST_STEPS)
    assert "'1.weight'" not in str(found[0].message), "few weights may well be needed all"
    probs["0.weight"][:1] = 0.0
    check_supports(fitted(net, probs, loc), BATCH, guards.FEWEST_STEPS)


def test_nothing_is_said_of_a_short_training_or_another_prior() -> None:
    net = nn.Linear(20, 2)
    empty = fitted(net, {"weight": torch.zeros(2, 20)}, weights(net, 1.0))
    check_supports(empty, BATCH, guards.FEWEST_STEPS - 1)
    check_supports(fitted(net, {}, weights(net, 1.0)), BATCH, guards.FEWEST_STEPS)


def test_a_training_that_prunes_everything_is_reported_by_fit() -> None:
    x = torch.randn(256, 20)
    y = (x[:, 0] > 0).long()
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 2))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.ThreeLayer())
    engine = engines.Turbo(kl_weight=300.0)
    with pytest.warns(TrainingWarning, match=r"no weight of '0\.weight', '2\.weight'") as found:
        ptv.fit(bnn, (x, y), engine=engine, epochs=30, batch_size=64, progress=False, device="cpu")
    assert len(found) == 1
