"""Guides that are functions keep their parameters to themselves."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors
from pyro_turbovbi.engines._guides import FunctionGuide, own_parameters

X = torch.randn(40, 3)
Y = X.sum(1)


def build(bnn: ptv.BayesianNet) -> Any:
    """A guide as Pyro's tutorials write them."""

    def guide(_x: object, _y: object = None) -> None:
        loc = pyro.param("loc", torch.zeros(1, 3))
        scale = pyro.param("scale", torch.full((1, 3), 0.01), constraint=constraints.positive)
        pyro.sample("weight", dist.Normal(loc, scale).to_event(2))

    return guide


def train(epochs: int = 2) -> ptv.Fit:
    net = nn.Linear(3, 1, bias=False)
    bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(learn=False), prior=priors.Normal(1.0))
    engine = engines.SVI(build, lr=0.05)
    return ptv.fit(bnn, (X, Y), engine=engine, epochs=epochs, progress=False)


def test_a_training_starts_anew_and_leaves_earlier_ones_and_the_global_store_alone() -> None:
    pyro.param("loc", torch.ones(2))
    first = train(epochs=60)
    torch.manual_seed(0)
    mean = first.posterior.mean()["weight"]
    assert float((mean - 1.0).abs().max()) < 0.2, "it has been trained"
    second = train(epochs=60)
    torch.manual_seed(0)
    assert torch.equal(first.posterior.mean()["weight"], mean)
    assert second.history.elbo == first.history.elbo
    assert list(pyro.get_param_store().keys()) == ["loc"]
    assert torch.equal(pyro.param("loc").detach(), torch.ones(2))
    pyro.clear_param_store()


def test_snapshots_stay() -> None:
    snapshots = []
    net = nn.Linear(3, 1, bias=False)
    bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(learn=False), prior=priors.Normal(1.0))
    ptv.fit(
        bnn,
        (X, Y),
        engine=engines.SVI(build, lr=0.05),
        epochs=20,
        progress=False,
        callbacks=[lambda _record, snapshot: snapshots.append(snapshot())],
    )
    first, last = (fit.posterior.draw()["weight"] for fit in (snapshots[0], snapshots[-1]))
    assert float(first.abs().max()) < 0.2
    assert float(last.min()) > 0.4


def test_the_context_holds_the_functions_parameters_alone() -> None:
    guide = FunctionGuide(lambda: pyro.param("a", torch.zeros(())))
    for _ in range(2):
        with own_parameters(guide):
            guide()
            assert list(pyro.get_param_store().keys()) == ["a"]
        assert list(pyro.get_param_store().keys()) == []
    assert repr(guide) == repr(guide.guide)
