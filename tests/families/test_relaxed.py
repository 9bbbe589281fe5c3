"""The straight-through guide: what it claims about ELBO estimates and gradients, and training."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError
from pyro_turbovbi.families import NormalFactor, RelaxedFactor, RelaxedGuide
from pyro_turbovbi.kernels.evidence import log_evidence
from tests.families import regression
from tests.oracles.enumeration import all_states

SHAPE = torch.Size((1, 3))


def relaxed_factor(guide: RelaxedGuide) -> RelaxedFactor:
    (factor,) = guide
    assert isinstance(factor, RelaxedFactor)
    return factor


def support_scores(weight: Tensor) -> Tensor:
    """`sum_n ln Z_s(w_n^2) [..., S]` of weights `[..., 3]` for all supports."""
    square = weight.square()
    active, inactive = (
        log_evidence(square, *law)[..., None, :] for law in (regression.ACTIVE, regression.INACTIVE)
    )
    return torch.where(all_states(3).bool(), active, inactive).sum(-1)


def test_an_elbo_estimate_does_not_depend_on_the_precisions() -> None:
    """Student-t densities at the hard support are all that is left of them."""
    bnn = regression.model(collapse=False)
    guide, (x, y) = RelaxedGuide(bnn.sites), regression.data()
    trace = poutine.trace(guide).get_trace(x, y)
    replayed = poutine.trace(poutine.replay(bnn, trace=trace)).get_trace(x, y)
    replayed.compute_log_prob()
    trace.compute_log_prob()
    weight, support = (trace.nodes[name]["value"] for name in ("weight", "weight_support"))
    index = int((all_states(3) == support.detach().double()).all(1).nonzero())
    computed = (
        replayed.nodes["weight_precision"]["log_prob"]
        + replayed.nodes["weight"]["log_prob"]
        - trace.nodes["weight_precision"]["log_prob"]
    )
    expected = support_scores(weight.double())[0, index]
    assert float(computed.detach()) == pytest.approx(float(expected.detach()), abs=1e-4)


def test_gradients_of_the_log_odds_are_the_true_ones_times_a_positive_factor() -> None:
    """Against enumeration of all supports, at a temperature where the factor is nearly one."""
    bnn = regression.model(collapse=False)
    guide, count = RelaxedGuide(bnn.sites, temperature=0.2), 150
    factor = relaxed_factor(guide)
    with torch.no_grad():
        factor.support_log_odds.copy_(torch.tensor([[-0.5, 0.3, 1.0]]))
    log_odds = factor.support_log_odds.detach().double()[0].requires_grad_()
    law = dist.Normal(factor.loc.detach().double()[0], factor.scale.detach().double()[0])
    prior = regression.SUPPORT.distribution((3,)).log_prob(all_states(3))
    scores = support_scores(law.sample((20_000,))).mean(0) + prior
    log_q = dist.Bernoulli(logits=log_odds).log_prob(all_states(3)).sum(1)
    (true,) = torch.autograd.grad((log_q.exp() * (scores - log_q)).sum(), log_odds)

    gradients, elbo = [], Trace_ELBO()
    with pyro.settings.context(module_local_params=True):
        for _ in range(count):
            factor.support_log_odds.grad = None
            elbo.loss_and_grads(bnn, guide, *regression.data())
            assert factor.support_log_odds.grad is not None
            gradients.append(-factor.support_log_odds.grad[0].double())
    mean, error = torch.stack(gradients).mean(0), torch.stack(gradients).std(0) / count**0.5
    assert ((mean - true).abs() < 5 * error + 0.05 * true.abs()).all()
    assert (mean * true > 0).all()


def test_it_trains_faster_than_score_functions_and_stays_below_the_evidence() -> None:
    bnn = regression.model(collapse=False)
    guide = RelaxedGuide(bnn.sites)
    elbo = regression.train(bnn, guide)
    evidence, probs = regression.exact()
    assert evidence - 2.0 < elbo < evidence
    assert elbo > regression.score_function_elbo() + 0.5
    found = relaxed_factor(guide).support_log_odds.detach().sigmoid()[0].double()
    assert ((found - probs).abs() < 0.15).all()


def test_the_engine_reports_its_supports() -> None:
    bnn = regression.model(collapse=False)
    engine = engines.SVI(lambda net: RelaxedGuide(net.sites), lr=0.03)
    fit = ptv.fit(bnn, regression.data(), engine=engine, epochs=5, batch_size=20, progress=False)
    probs = fit.support_probs()["weight"]
    assert ((probs > 0) & (probs < 1)).all()
    assert not torch.allclose(probs, torch.tensor(0.4)), "gradients move them"
    assert fit.posterior.scale() is not None


def test_parameters_exist_at_once_and_no_site_is_scored() -> None:
    bnn = regression.model(collapse=False)
    guide = RelaxedGuide(bnn.sites)
    names = {name for name, _ in guide.named_parameters()}
    assert names == {f"factors.0.{part}" for part in ("loc", "log_scale", "support_log_odds")}
    trace = poutine.trace(guide).get_trace()
    assert all(trace.nodes[name]["fn"].has_rsample for name in trace.stochastic_nodes)


def test_normal_sites_get_normal_factors_and_grids_are_trained() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    grid = priors.ThreeLayer(supports.Grid(0.3, 2.0))
    prior = priors.by_site({"0.weight": grid}, default=priors.Normal(1.0))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    guide = RelaxedGuide(bnn.sites)
    assert [type(factor) for factor in guide] == [RelaxedFactor, NormalFactor]
    x, y = torch.randn(6, 4), torch.arange(6) % 2
    with pyro.settings.context(module_local_params=True):
        assert Trace_ELBO().loss_and_grads(bnn, guide, x, y) < float("inf")


@pytest.mark.parametrize(
    "support",
    [supports.Gated((0.5, 2.0), (0.5, 2.0)), supports.Blocks((1, 2), supports.Independent(0.3))],
)
def test_supports_that_are_not_multilinear_are_refused(support: supports.Support) -> None:
    bnn = regression.model(collapse=False, support=support)
    with pytest.raises(UnsupportedError, match=r"no multilinear log-probability.*EnumeratedGuide"):
        RelaxedGuide(bnn.sites)


def test_collapsed_priors_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"RelaxedGuide cannot .*collapse=False\) without"):
        RelaxedGuide(regression.model(collapse="support").sites)


def test_temperatures_out_of_range() -> None:
    guide = RelaxedGuide(regression.model(collapse=False).sites, temperature=0.0)
    with pytest.raises(InvalidArgumentError, match=r"temperature is out of range; given: 0\.0"):
        guide()
