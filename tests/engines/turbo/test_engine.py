"""`engines.Turbo` as an engine of `fit`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.batches import Batch
from pyro_turbovbi.engines import Plan
from pyro_turbovbi.errors import UnsupportedError


def lifted(support: supports.Support | None = None) -> ptv.BayesianNet:
    prior = priors.ThreeLayer(support) if support else priors.Normal(0.3)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)


def batch() -> Batch:
    return Batch((torch.randn(9, 4), torch.randint(0, 2, (9,))))


@pytest.mark.parametrize(
    ("support", "kind"),
    [
        (supports.Chain(), "bound"),
        (supports.Grid(), "Bethe"),
        (supports.Blocks((2, 2), supports.Grid()), "Bethe"),
        (supports.Blocks((2, 2), supports.Chain()), "bound"),
        (None, "bound"),
    ],
)
def test_elbo_is_called_what_it_is(support: supports.Support | None, kind: str) -> None:
    engine = engines.Turbo()
    state = engine.init(lifted(support), Plan(9, 10, batch()))
    assert engine.elbo_kind(state) == kind


def test_posterior_is_a_copy_with_supports_for_three_layer_sites_only() -> None:
    bnn = lifted(supports.Chain()).with_prior(
        priors.by_site({"0.weight": priors.ThreeLayer(supports.Chain())}, default=priors.Normal())
    )
    engine = engines.Turbo()
    state = engine.init(bnn, Plan(9, 10, batch()))
    posterior = engine.posterior(state)
    before = posterior.mean()["0.weight"].clone()
    engine.step(state, batch())
    assert torch.equal(before, posterior.mean()["0.weight"])
    probs = posterior.support_probs()
    assert probs is not None
    assert set(probs) == {"0.weight"}
    assert set(posterior.mean()) == {"0.weight", "2.weight"}


def test_evaluating_changes_nothing() -> None:
    engine = engines.Turbo()
    state = engine.init(lifted(supports.Chain()), Plan(9, 10, batch()))
    engine.step(state, batch())
    before = {n: v.clone() for n, v in engine.posterior(state).mean().items()}
    losses = [engine.evaluate(state, batch()) for _ in range(2)]
    assert all(torch.isfinite(torch.tensor(losses)))
    for name, value in engine.posterior(state).mean().items():
        assert torch.equal(before[name], value)


def test_names_and_batches() -> None:
    assert engines.Turbo().name == "turbo"
    assert engines.Turbo(factorisation="mean_field").name == "turbo (mean field)"
    assert not engines.Turbo().full_batch
    assert engines.Turbo(weights="exact").full_batch


def test_exact_weights_take_one_input_tensor() -> None:
    net = nn.Linear(4, 1)
    bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(), prior=priors.ThreeLayer())
    engine = engines.Turbo(weights="exact")
    state = engine.init(bnn, Plan(9, 10, batch()))
    named = Batch(({"a": torch.randn(9, 4), "b": torch.randn(9, 4)}, torch.randn(9)))
    with pytest.raises(UnsupportedError, match="exact weights need one input tensor"):
        engine.step(state, named)
    sequences = Batch((torch.randn(9, 5, 4), torch.randn(9, 5, 1)))
    with pytest.raises(UnsupportedError, match=r"given: \(9, 5, 4\); accepted: x: Tensor \[points"):
        engine.step(state, sequences)
