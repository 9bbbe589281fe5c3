"""Posteriors as trees; that all kinds come back is tested in `contract.test_saving`."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError
from pyro_turbovbi.persistence.posteriors import dump_posterior, restore_posterior
from pyro_turbovbi.posterior import DiagonalPosterior, SampledPosterior
from tests.contract.test_engines import guide_of

X, Y = torch.randn(20, 3), torch.arange(20) % 2


def model() -> ptv.BayesianNet:
    prior = priors.Normal(0.5)
    return ptv.lift(nn.Linear(3, 2), likelihood=likelihoods.Categorical(), prior=prior)


def fitted(engine: Any) -> ptv.Fit:
    return ptv.fit(model(), (X, Y), engine=engine, epochs=1, progress=False, device="cpu")


def function_guide(_model: object) -> Any:
    """A guide whose parameters live in no module."""
    loc = torch.zeros(2, 3, requires_grad=True)

    def guide(*_args: Any) -> None:
        pyro.sample("weight", dist.Normal(loc, 0.1).to_event(2))

    return guide


def test_a_guide_of_ones_own_has_to_be_given_again() -> None:
    build = guide_of("low_rank_normal")
    fit = fitted(engines.SVI(build))
    tree = dump_posterior(fit.posterior)
    with pytest.raises(InvalidArgumentError, match=r"under a guide of your own.*guide=build"):
        restore_posterior(tree, fit.bnn, None)
    again = restore_posterior(tree, fit.bnn, build)
    torch.manual_seed(1)
    first = fit.posterior.draw()
    torch.manual_seed(1)
    assert torch.equal(first["weight"], again.draw()["weight"])
    with pytest.raises(RuntimeError):
        restore_posterior(tree, fit.bnn, guide_of("mean_field_normal"))


def test_loading_a_guide_leaves_batch_statistics_and_random_numbers_alone() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.Normal(0.5))
    engine = engines.SVI("auto_low_rank_multivariate_normal")
    fit = ptv.fit(bnn, (X, Y), engine=engine, epochs=1, progress=False, device="cpu")
    tree = dump_posterior(fit.posterior)
    before = {name: value.clone() for name, value in fit.bnn.train().state_dict().items()}
    random_state = torch.get_rng_state()
    restore_posterior(tree, fit.bnn, None)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[n]) for n, value in fit.bnn.state_dict().items())
    assert list(pyro.get_param_store().keys()) == []


def test_a_guide_that_is_no_module_is_refused() -> None:
    posterior = fitted(engines.SVI(function_guide)).posterior
    with pytest.raises(UnsupportedError, match="its guide keeps its parameters to itself"):
        dump_posterior(posterior)


def test_other_classes_are_refused() -> None:
    class Own(DiagonalPosterior):
        pass

    weights = {"weight": torch.zeros(2)}
    for posterior in (Own(weights, weights), SampledPosterior(lambda: weights, lambda: weights)):
        with pytest.raises(UnsupportedError, match="the posterior cannot be stored; given: "):
            dump_posterior(posterior)
