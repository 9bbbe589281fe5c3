"""NUTS behind `fit`: closed forms and quadrature, what it reports, what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.batches import Batch
from pyro_turbovbi.engines import NUTS, MCMCPosterior, Plan
from pyro_turbovbi.engines.nuts import NUTSState, _diagnose
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError

NOISE = 0.5
NORMAL = priors.Normal(1.0)
COLLAPSED = priors.ThreeLayer(
    supports.Chain(0.4, 2.0), dist.Gamma(3.0, 3.0), dist.Gamma(4.0, 0.16), collapse=True
)
SHORT = NUTS(num_samples=6, warmup=3)


def model(
    prior: Any = NORMAL, features: int = 3, net: nn.Module | None = None, likelihood: Any = None
) -> ptv.BayesianNet:
    return ptv.lift(
        net or nn.Linear(features, 1, bias=False).double(),
        likelihood=likelihood or likelihoods.Gaussian(NOISE, learn=False),
        prior=prior,
    )


def data(rows: int = 40, features: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, features, dtype=torch.float64)
    y = x @ torch.arange(1.0, features + 1, dtype=torch.float64)
    return x, y + NOISE * torch.randn(rows, dtype=torch.float64)


def run(engine: NUTS = SHORT, bnn: ptv.BayesianNet | None = None, **options: Any) -> ptv.Fit:
    torch.manual_seed(1)
    defaults: dict[str, Any] = {"data": data(), "epochs": 2, "progress": False}
    return ptv.fit(bnn or model(), engine=engine, **(defaults | options))


def draws_of(fit: ptv.Fit, name: str = "weight") -> Tensor:
    assert isinstance(fit.posterior, MCMCPosterior)
    return fit.posterior.draws[name]


def standard_errors(fit: ptv.Fit) -> Tensor:
    """Monte Carlo standard errors of the posterior means, from the effective sample sizes."""
    assert isinstance(fit.posterior, MCMCPosterior)
    scale = fit.posterior.scale()
    assert scale is not None
    return scale["weight"] / fit.posterior.diagnostics.ess["weight"].sqrt()


def test_posterior_of_a_linear_unit_is_the_closed_form() -> None:
    x, y = data(30)
    fit = run(NUTS(num_samples=300, warmup=100), data=(x, y))
    precision = torch.eye(3, dtype=torch.float64) + x.T @ x / NOISE**2
    mean = torch.linalg.solve(precision, x.T @ y / NOISE**2)
    covariance = torch.linalg.inv(precision)
    assert isinstance(fit.posterior, MCMCPosterior)
    assert fit.posterior.diagnostics.max_r_hat < 1.05
    error = (fit.posterior.mean()["weight"][0] - mean).abs()
    assert (error < 5 * standard_errors(fit)[0]).all()
    estimate = draws_of(fit)[0, :, 0].T.cov()
    size = covariance.diagonal().sqrt()
    assert float(((estimate - covariance) / (size * size[:, None])).abs().max()) < 0.4


def quadrature(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior means and P(s = 1) of two weights under `COLLAPSED`, on a fine grid."""
    axis = torch.linspace(-2.5, 2.5, 801, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    residual = y - points @ x.T
    law = COLLAPSED.marginal(torch.Size((1, 2)))
    log_joint = law.log_prob(points[:, None]) - residual.square().sum(1) / (2 * NOISE**2)
    # Student-t given the support, and four supports by hand: nothing is shared with the code tested
    chain = torch.tensor([[0.6 * (1 - 1 / 3), 0.6 / 3], [0.4 * 0.5, 0.4 * 0.5]]).double()
    scale = [math.sqrt(0.04), 1.0]
    each = [
        dist.StudentT(torch.tensor(2 * a).double(), 0.0, s).log_prob(points)
        for a, s in zip((4.0, 3.0), scale, strict=True)
    ]
    likelihood = -residual.square().sum(1) / (2 * NOISE**2)
    joint = {
        (i, j): chain[i, j] * (each[i][:, 0] + each[j][:, 1] + likelihood).exp()
        for i in (0, 1)
        for j in (0, 1)
    }
    total = sum(joint.values())
    assert isinstance(total, Tensor)
    shift = (log_joint - total.log()).max()
    torch.testing.assert_close(log_joint - total.log(), shift.expand(len(points)))
    evidence = total.sum()
    probs = [(joint[1, 0] + joint[1, 1]).sum(), (joint[0, 1] + joint[1, 1]).sum()]
    return (total @ points) / evidence, torch.stack(probs) / evidence


@pytest.mark.slow
def test_collapsed_prior_equals_quadrature_and_enumeration() -> None:
    """Two weights on few data: one clearly active, one in doubt."""
    torch.manual_seed(3)
    x = torch.randn(6, 2, dtype=torch.float64)
    y = x @ torch.tensor([1.0, 0.3], dtype=torch.float64)
    mean, probs = quadrature(x, y)
    assert 0.1 < float(probs.min()) < 0.9, "a problem whose answer is not obvious"
    fit = run(
        NUTS(num_samples=700, warmup=200, target_accept=0.9),
        model(COLLAPSED, 2),
        data=(x, y),
    )
    assert isinstance(fit.posterior, MCMCPosterior)
    assert fit.posterior.diagnostics.max_r_hat < 1.05
    error = (fit.posterior.mean()["weight"][0] - mean).abs()
    assert (error < 5 * standard_errors(fit)[0]).all()
    found = fit.support_probs()["weight"][0]
    law = COLLAPSED.marginal(torch.Size((1, 2)))
    each = law.support_posterior(draws_of(fit).flatten(0, 1)).probs[:, 0]
    torch.testing.assert_close(found, each.mean(0))
    tolerance = 5 * each.std(0) / fit.posterior.diagnostics.min_ess**0.5
    assert ((found - probs).abs() < tolerance).all()
    assert float(tolerance.max()) < 0.15
    assert fit.masks()["weight"].equal(fit.support_probs()["weight"] > 0.5)


def test_fit_reports_draws_scales_and_diagnostics() -> None:
    fit = run(NUTS(num_samples=8, warmup=4, num_chains=2))
    assert fit.engine_name == "nuts"
    assert fit.elbo is None
    assert fit.elbo_kind == "log joint"
    assert all(math.isfinite(record.loss) for record in fit.history)
    draws = draws_of(fit)
    assert draws.shape == (2, 8, 1, 3)
    assert not torch.equal(draws[0, 0], draws[1, 0])
    torch.testing.assert_close(fit.posterior.mean()["weight"], draws.mean((0, 1)))
    scale = fit.posterior.scale()
    assert scale is not None
    torch.testing.assert_close(scale["weight"], draws.flatten(0, 1).std(0, correction=0))
    moments = fit.posterior.moments()["weight"]
    torch.testing.assert_close(moments.mean, draws.mean((0, 1)))
    torch.testing.assert_close(moments.scale, scale["weight"])
    picked = fit.sample(20)["weight"]
    assert all(any(torch.equal(p, d) for d in draws.flatten(0, 1)) for p in picked)
    assert isinstance(fit.posterior, MCMCPosterior)
    diagnostics = fit.posterior.diagnostics
    assert diagnostics.r_hat["weight"].shape == diagnostics.ess["weight"].shape == (1, 3)
    assert diagnostics.max_r_hat == float(diagnostics.r_hat["weight"].max())
    assert diagnostics.min_ess == float(diagnostics.ess["weight"].min())
    assert len(diagnostics.divergences) == len(diagnostics.step_sizes) == 2
    assert all(size > 0 for size in diagnostics.step_sizes)
    assert list(pyro.get_param_store().keys()) == []


def test_chains_that_disagree_show_in_r_hat() -> None:
    """Two modes far apart, one chain in each, by hand."""
    draws = {"w": torch.randn(2, 50, 3) + torch.tensor([0.0, 8.0])[:, None, None]}
    state = NUTSState(model(), Plan(1, 1, Batch(data())))
    assert _diagnose(state, draws).max_r_hat > 2.0
    assert _diagnose(state, {"w": draws["w"] % 4.0}).max_r_hat < 1.5


def test_epochs_only_say_how_often_progress_is_shown() -> None:
    once, often = run(epochs=1), run(epochs=20)
    assert torch.equal(draws_of(once), draws_of(often))
    assert len(often.history) == 20


def test_the_seed_decides_the_draws_and_the_callers_random_state_stays() -> None:
    torch.manual_seed(7)
    expected = torch.rand(2)
    bnn, (x, y) = model(), data()
    torch.manual_seed(7)
    first, again, other = (
        ptv.fit(bnn, (x, y), engine=SHORT, epochs=1, seed=seed, progress=False)
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(draws_of(first), draws_of(again))
    assert not torch.equal(draws_of(first), draws_of(other))


def test_before_the_first_draw_there_is_the_start() -> None:
    bnn = model()
    batch = Batch(data())
    engine = NUTS(num_samples=2, warmup=6)
    state = engine.init(bnn, Plan(40, 4, batch))
    start = bnn.sites["weight"].init
    assert start is not None
    posterior = engine.posterior(state)
    torch.testing.assert_close(posterior.draw()["weight"], start)
    assert posterior.diagnostics.r_hat["weight"].isnan().all()
    engine.step(state, batch)
    assert draws_of_state(state) == 0, "still warming up"
    engine.finish(state)
    assert draws_of_state(state) == 2


def draws_of_state(state: Any) -> int:
    return sum(len(chain.weights) for chain in state.chains)


def test_the_loss_is_minus_the_log_joint() -> None:
    bnn = model()
    x, y = data()
    state = SHORT.init(bnn, Plan(40, 1, Batch((x, y))))
    weight = bnn.sites["weight"].init
    assert weight is not None
    normal = dist.Normal(torch.zeros(1, 3).double(), 1.0).log_prob(weight).sum()
    likelihood = dist.Normal((x @ weight.T)[:, 0], NOISE).log_prob(y).sum()
    assert SHORT.evaluate(state, Batch((x, y))) == pytest.approx(-float(normal + likelihood))


def test_the_net_is_sampled_in_eval_mode_and_left_in_its_own() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.9), nn.Tanh(), nn.Linear(2, 1)).double()
    bnn = model(priors.by_site({"*": NORMAL}), net=net).train()
    batch = Batch(data())
    state = SHORT.init(bnn, Plan(40, 1, batch))
    assert SHORT.evaluate(state, batch) == SHORT.evaluate(state, batch)
    SHORT.step(state, batch)
    assert bnn.training
    assert set(SHORT.posterior(state).mean()) == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_non_centred_priors_are_put_together() -> None:
    fit = run(bnn=model(priors.Horseshoe()))
    assert draws_of(fit).shape == (1, 6, 1, 3)
    assert "weight_local" in fit.posterior.moments()
    assert fit.masks()["weight"].dtype == torch.bool


def test_trajectories_that_leave_the_domain_are_no_warning() -> None:
    """Rates overflow where the weights are large: the sampler rejects, nobody is told."""
    x, _ = data()
    fit = run(
        NUTS(num_samples=10, warmup=0),
        model(priors.Normal(100.0), likelihood=likelihoods.Poisson()),
        data=(20 * x, torch.ones(40)),
    )
    assert fit.posterior.mean()["weight"].isfinite().all()
    assert pyro.poutine.util.is_validation_enabled(), "validation is back on"


def test_discrete_supports_are_refused() -> None:
    with pytest.raises(UnsupportedError) as error:
        run(bnn=model(priors.ThreeLayer()))
    assert str(error.value) == (
        "NUTS cannot handle the discrete supports of its priors; given: weights weight; accepted: "
        "priors.ThreeLayer(..., collapse=True), another prior by "
        "bnn.with_prior(priors.Normal()), or engines.Turbo()"
    )


def test_parameters_without_a_prior_are_refused() -> None:
    bnn = model(net=nn.Linear(3, 1).double(), likelihood=likelihoods.Gaussian())
    with pytest.raises(UnsupportedError) as error:
        run(bnn=bnn)
    assert str(error.value) == (
        "NUTS samples and cannot train parameters without a prior; given: net.bias, "
        "likelihood.log_scale; accepted: a prior for every parameter, "
        'priors.by_site({"*": priors.Normal()}), a likelihood without learned noise, or '
        "engines.Turbo(), engines.SVI()"
    )


def test_large_nets_are_refused_unless_told_otherwise() -> None:
    with pytest.raises(UnsupportedError) as error:
        run(NUTS(max_weights=2))
    assert str(error.value) == (
        "NUTS is for small nets: its cost a draw grows faster than the number of weights; "
        "given: 3 weights; accepted: at most 2, engines.NUTS(max_weights=3), or "
        "engines.Turbo(), engines.SVI()"
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_samples", 0),
        ("warmup", -1),
        ("num_chains", 0),
        ("max_tree_depth", 0),
        ("max_weights", 0),
        ("target_accept", 1.0),
    ],
)
def test_settings_are_checked(setting: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=f"NUTS setting '{setting}' is out of range"):
        NUTS(**{setting: value})


def test_dense_mass_matrix() -> None:
    assert draws_of(run(NUTS(num_samples=6, warmup=3, dense_mass=True))).shape == (1, 6, 1, 3)
