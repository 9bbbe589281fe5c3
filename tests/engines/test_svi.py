"""Stock SVI behind `fit`: every autoguide, guides of one's own, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer
from pyro.infer.autoguide import AutoNormal
from pyro.optim import PyroOptim
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.batches import Batch
from pyro_turbovbi.engines import AUTOGUIDES, SVI, Plan
from pyro_turbovbi.errors import InvalidArgumentError, NumericalError, UnsupportedError
from pyro_turbovbi.families import TurboGuide

NORMAL = priors.Normal(1.0)
THREE_LAYER = priors.ThreeLayer(support=supports.Independent(0.3))


def linear(features: int = 3) -> nn.Linear:
    return nn.Linear(features, 1, bias=False)


def model(prior: priors.Prior = NORMAL, net: nn.Module | None = None) -> ptv.BayesianNet:
    return ptv.lift(net or linear(), likelihood=likelihoods.Gaussian(0.5, learn=False), prior=prior)


def data(rows: int = 40, features: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, features)
    return x, x @ torch.arange(1.0, features + 1) + 0.5 * torch.randn(rows)


def run(engine: SVI, prior: priors.Prior = NORMAL, **options: Any) -> ptv.Fit:
    defaults: dict[str, Any] = {"epochs": 2, "batch_size": 40, "progress": False}
    return ptv.fit(model(prior), data(), engine=engine, **(defaults | options))


def exact_posterior(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a linear unit under Normal(0, 1) weights and noise 0.5."""
    x, y = x.double(), y.double()
    precision = torch.eye(x.shape[1], dtype=torch.float64) + x.T @ x / 0.25
    return torch.linalg.solve(precision, x.T @ y / 0.25), torch.linalg.inv(precision)


@pytest.mark.parametrize("name", AUTOGUIDES)
def test_every_autoguide_trains_predicts_and_stores_nothing(name: str) -> None:
    fit = run(SVI(name))
    x, _ = data(5)
    assert fit.predict(x, num_samples=3).outputs.shape == (3, 5, 1)
    assert fit.posterior.mean()["weight"].shape == (1, 3)
    assert fit.engine_name == f"svi ({name})"
    assert (fit.elbo is None) == (name == "auto_delta")
    assert fit.elbo_kind == ("log joint" if name == "auto_delta" else "bound")
    assert fit.masks()["weight"].all()
    assert list(pyro.get_param_store().keys()) == []
    assert not pyro.settings.get("module_local_params"), "the user's setting is left alone"


@pytest.mark.parametrize(
    "name",
    ["auto_normal", "auto_multivariate_normal", "auto_low_rank_multivariate_normal"],
)
def test_posterior_of_a_linear_unit_is_the_exact_one(name: str) -> None:
    x, y = data(60)
    fit = ptv.fit(
        model(), (x, y), engine=SVI(name, lr=0.03), epochs=300, batch_size=60, progress=False
    )
    mean, covariance = exact_posterior(x, y)
    scale = covariance.diagonal().sqrt()
    error = (fit.posterior.mean()["weight"][0].double() - mean) / scale
    assert float(error.abs().max()) < 1.0, "within a posterior standard deviation"
    draws = fit.sample(500)["weight"][:, 0]
    # the best factorised posterior has the precisions' diagonal, which is at most the variance
    assert (draws.std(0) < 1.6 * scale).all()
    assert (draws.std(0) > 0.5 * scale).all()


@pytest.mark.parametrize("name", ["auto_normal", "auto_diagonal_normal", "auto_delta"])
def test_training_starts_at_the_nets_own_weights(name: str) -> None:
    bnn = model()
    fit = ptv.fit(bnn, data(), engine=SVI(name, lr=1e-9), epochs=1, progress=False)
    start = bnn.sites["weight"].init
    assert start is not None
    torch.testing.assert_close(fit.posterior.mean()["weight"], start, rtol=1e-5, atol=1e-6)


def test_auto_normal_gives_scales_that_rank_masks() -> None:
    fit = run(SVI(lr=1e-9, init_scale=0.25))
    scale = fit.posterior.scale()
    assert scale is not None
    torch.testing.assert_close(scale["weight"], torch.full((1, 3), 0.25))
    assert int(fit.masks(0.34)["weight"].sum()) == 1
    largest = fit.posterior.mean()["weight"].abs().argmax()
    assert fit.masks(0.34)["weight"].flatten()[largest]


def test_optimiser_and_loss_are_the_users() -> None:
    used: list[float] = []

    class Loss(infer.Trace_ELBO):
        def loss_and_grads(self, *args: Any, **kwargs: Any) -> float:
            used.append(float(super().loss_and_grads(*args, **kwargs)))
            return used[-1]

    optim = PyroOptim(torch.optim.SGD, {"lr": 0.0})
    bnn = model()
    fit = ptv.fit(bnn, data(), engine=SVI(optim=optim, loss=Loss()), epochs=3, progress=False)
    assert [record.loss for record in fit.history] == used
    start = bnn.sites["weight"].init
    assert start is not None
    assert torch.equal(fit.posterior.mean()["weight"], start)


def test_the_loss_is_pyros_own() -> None:
    """One step of the engine is one step of `pyro.infer.SVI`, to the bit."""
    x, y = data()
    bnn = model()
    plan = Plan(len(x), 1, Batch((x, y)))
    engine = SVI(lr=0.01, init_scale=0.05)
    state = engine.init(bnn, plan)
    with pyro.settings.context(module_local_params=True):
        start = infer.autoguide.init_to_value(values={"weight": bnn.sites["weight"].init})
        guide = AutoNormal(bnn, init_loc_fn=start, init_scale=0.05)
        stock = infer.SVI(bnn, guide, pyro.optim.Adam({"lr": 0.01}), infer.Trace_ELBO())
        guide(x, y)
        torch.manual_seed(4)
        expected = [stock.step(x, y) for _ in range(3)]
        torch.manual_seed(4)
    assert [engine.step(state, Batch((x, y))) for _ in range(3)] == expected


def hand_written(bnn: ptv.BayesianNet) -> Any:
    """A plain function with two parameters of its own module, far from any autoguide."""

    class Guide(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(bnn.sites["weight"].shape))
            self.log_scale = nn.Parameter(torch.full(bnn.sites["weight"].shape, -2.0))

        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            pyro.sample("weight", dist.Normal(self.loc, self.log_scale.exp()).to_event(2))

    return Guide()


def test_a_hand_written_guide_is_trained() -> None:
    fit = run(SVI(hand_written, lr=0.05), epochs=150)
    assert fit.engine_name == "svi (custom guide)"
    assert fit.elbo_kind == "bound"
    target = torch.tensor([[1.0, 2.0, 3.0]])
    assert float((fit.posterior.mean()["weight"] - target).abs().max()) < 0.5
    assert list(pyro.get_param_store().keys()) == []


def test_the_turbo_guide_reports_its_supports() -> None:
    fit = run(SVI(lambda bnn: TurboGuide(bnn.sites), lr=0.05), THREE_LAYER, epochs=20)
    probs = fit.support_probs()["weight"]
    assert ((probs > 0.0) & (probs < 1.0)).all()
    assert not torch.allclose(probs, torch.tensor(0.3)), "score-function gradients move them"
    scale = fit.posterior.scale()
    assert scale is not None
    assert (scale["weight"] > 0).all()


class SupportGuide(pyro.nn.PyroModule):
    """Supports of a known law, precisions and weights around a point."""

    def __init__(self, support: Any) -> None:
        super().__init__()
        self.support = support
        self.loc = nn.Parameter(torch.ones(1, 3))

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.sample("weight_support", self.support)
        pyro.sample("weight_precision", dist.LogNormal(torch.zeros(1, 3), 1.0).to_event(2))
        pyro.sample("weight", dist.Normal(self.loc, 0.1).to_event(2))


def test_supports_of_any_guide_are_the_means_of_its_support_sites() -> None:
    probs = torch.tensor([[0.2, 0.5, 0.9]])
    bernoulli = dist.Bernoulli(probs).to_event(2)
    fit = run(SVI(lambda bnn: SupportGuide(bernoulli)), THREE_LAYER)
    torch.testing.assert_close(fit.support_probs()["weight"], probs)


def test_supports_of_a_guide_without_means_are_estimated_from_draws() -> None:
    chain = supports.Chain(0.4, 2.0).distribution((1, 3))
    fit = run(SVI(lambda bnn: SupportGuide(chain)), THREE_LAYER)
    probs = fit.support_probs()["weight"]
    assert ((probs - 0.4).abs() < 5 * (0.4 * 0.6 / 64) ** 0.5).all()
    assert torch.equal(probs * 64, (probs * 64).round()), "shares of 64 draws"
    assert torch.equal(probs, fit.support_probs()["weight"])


def test_a_guide_that_misses_a_weight_is_refused_before_training() -> None:
    def forgetful(bnn: ptv.BayesianNet) -> Any:
        return lambda x, y=None: None

    with pytest.raises(UnsupportedError) as error:
        run(SVI(forgetful))
    assert str(error.value) == (
        "the guide does not sample every weight site; given: missing weight; "
        "accepted: a guide with one sample site per latent site of the model"
    )


@pytest.mark.parametrize("name", AUTOGUIDES)
def test_autoguides_refuse_discrete_supports_and_name_alternatives(name: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        run(SVI(name), THREE_LAYER)
    assert str(error.value) == (
        f"autoguide {name!r} cannot handle the discrete supports of its priors; "
        "given: weights weight; accepted: priors.ThreeLayer(..., collapse=True), engines.Turbo(), "
        "engines.SVI with a guide of your own (guides/turbo.py), or another prior by "
        "bnn.with_prior(priors.Normal())"
    )


COLLAPSED = priors.ThreeLayer(
    supports.Chain(0.3, 2.0), dist.Gamma(1.0, 1.0), dist.Gamma(4.0, 0.04), collapse=True
)


@pytest.mark.parametrize("name", AUTOGUIDES)
def test_every_autoguide_trains_a_collapsed_prior_and_tells_its_supports(name: str) -> None:
    x = torch.randn(100, 8)
    y = x[:, 2:5] @ torch.tensor([1.0, -2.0, 1.5])
    fit = ptv.fit(
        model(COLLAPSED, linear(8)),
        (x, y),
        engine=SVI(name, lr=0.03),
        epochs=30,
        batch_size=20,
        progress=False,
    )
    probs = fit.support_probs()["weight"][0]
    assert (probs[2:5] > 0.9).all()
    assert (probs[[0, 6, 7]] < 0.5).all()
    assert fit.masks()["weight"].equal(probs[None] > 0.5)
    assert 3 <= int(fit.masks()["weight"].sum()) < 8
    assert len(fit.compress(x).masks["weight"]) == 1
    assert list(pyro.get_param_store().keys()) == []


@pytest.mark.parametrize("name", ["auto_normal", "auto_low_rank_multivariate_normal"])
def test_support_probabilities_are_means_over_draws(name: str) -> None:
    """Draws that come many at a time are the guide's own."""
    fit = run(SVI(name, lr=0.03, init_scale=0.3), COLLAPSED, epochs=30)
    law = COLLAPSED.marginal(torch.Size((1, 3)))
    each = law.support_posterior(fit.sample(2000)["weight"]).probs
    error = each.std(0) * (1 / 64 + 1 / 2000) ** 0.5
    difference = (fit.support_probs()["weight"] - each.mean(0)).abs()
    assert (difference < 5 * error + 1e-6).all()


@pytest.mark.parametrize("name", AUTOGUIDES)
def test_every_autoguide_trains_a_prior_with_supports_summed_out(name: str) -> None:
    x = torch.randn(100, 8)
    y = x[:, 2:5] @ torch.tensor([1.0, -2.0, 1.5])
    prior = dataclasses.replace(COLLAPSED, collapse="support")
    fit = ptv.fit(
        model(prior, linear(8)),
        (x, y),
        engine=SVI(name, lr=0.03),
        epochs=5,
        batch_size=50,
        progress=False,
    )
    probs = fit.support_probs()["weight"]
    assert ((probs > 0.0) & (probs <= 1.0)).all()
    assert not (probs == 1).all()
    assert fit.posterior.mean()["weight"].shape == (1, 8)


def test_looking_at_a_collapsed_posterior_changes_nothing() -> None:
    x, y = data()
    engine, bnn = SVI(), model(COLLAPSED)
    state = engine.init(bnn, Plan(len(x), 1, Batch((x, y))))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (engine.posterior(state).support_probs() for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    assert first is not None
    assert second is not None
    assert torch.equal(first["weight"], second["weight"])


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    x, y = data()
    with pytest.raises(NumericalError, match=r"the loss is not finite; given: (nan|inf|-inf)"):
        ptv.fit(
            model(),
            (x, y * 1e25),
            engine=SVI(optim=PyroOptim(torch.optim.SGD, {"lr": 1.0})),
            epochs=3,
            progress=False,
        )


def test_unknown_guides() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        SVI("auto_norml")
    assert str(error.value) == (
        f"unknown guide; given: auto_norml; accepted: {', '.join(AUTOGUIDES)}"
    )


@pytest.mark.usefixtures("no_type_checks")
def test_guides_of_the_wrong_kind() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        SVI(3)  # type: ignore[arg-type]
    assert str(error.value) == (
        "guide is of the wrong kind; given: 3; accepted: a name or a callable guide(model)"
    )


def test_evaluate_changes_nothing() -> None:
    x, y = data()
    engine, bnn = SVI(), model()
    batch = Batch((x, y))
    state = engine.init(bnn, Plan(len(x), 1, batch))
    before = engine.posterior(state).mean()["weight"].clone()
    torch.manual_seed(1)
    first = engine.evaluate(state, batch)
    torch.manual_seed(1)
    assert engine.evaluate(state, batch) == first
    assert math.isfinite(first)
    assert torch.equal(engine.posterior(state).mean()["weight"], before)
