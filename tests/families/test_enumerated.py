"""The guide over weights and precisions under a prior whose supports are summed out."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError
from pyro_turbovbi.families import EnumeratedFactor, EnumeratedGuide, NormalFactor
from tests.families import regression


def guide_of(bnn: ptv.BayesianNet) -> EnumeratedGuide:
    return EnumeratedGuide(bnn.sites)


def test_no_discrete_site_is_left_and_parameters_exist_at_once() -> None:
    bnn = regression.model(collapse="support")
    guide = guide_of(bnn)
    names = {name for name, _ in guide.named_parameters()}
    assert names == {f"factors.0.{part}" for part in ("loc", "log_scale", "extrinsic")}
    of_guide, of_model = (
        poutine.trace(program).get_trace(*regression.data()) for program in (guide, bnn)
    )
    assert set(of_guide.stochastic_nodes) == {"weight", "weight_precision"}
    assert set(of_model.stochastic_nodes) == {"data", "weight", "weight_precision"}
    assert all(of_guide.nodes[n]["fn"].has_rsample for n in of_guide.stochastic_nodes)


@pytest.mark.parametrize(
    ("extrinsic", "law"), [(200.0, regression.ACTIVE), (-200.0, regression.INACTIVE)]
)
def test_where_the_support_is_known_precisions_have_their_exact_posterior(
    extrinsic: float, law: tuple[float, float]
) -> None:
    guide = guide_of(regression.model(collapse="support"))
    (factor,) = guide
    assert isinstance(factor, EnumeratedFactor)
    with torch.no_grad():
        factor.extrinsic.fill_(extrinsic)
    trace = poutine.trace(guide).get_trace()
    weight, precision = (trace.nodes[n]["value"] for n in ("weight", "weight_precision"))
    expected = dist.Gamma(law[0] + 0.5, law[1] + weight.square() / 2).log_prob(precision).sum()
    torch.testing.assert_close(trace.nodes["weight_precision"]["fn"].log_prob(precision), expected)


def test_it_trains_below_the_evidence_and_beyond_score_functions() -> None:
    bnn = regression.model(collapse="support")
    elbo = regression.train(bnn, guide_of(bnn))
    evidence, _ = regression.exact()
    assert evidence - 2.0 < elbo < evidence
    assert elbo > regression.score_function_elbo() + 0.5


def test_the_engine_reports_supports_near_the_exact_ones() -> None:
    bnn = regression.model(collapse="support")
    fit = ptv.fit(
        bnn,
        regression.data(),
        engine=engines.SVI(guide_of, lr=0.03),
        epochs=regression.STEPS,
        batch_size=20,
        progress=False,
    )
    _, probs = regression.exact()
    found = fit.support_probs()["weight"][0].double()
    assert ((found - probs).abs() < 0.25).all(), "sure of a weight that q(w) keeps off zero"
    assert ((found > 0.5) == (probs > 0.5)).all()


def test_normal_sites_get_normal_factors_and_every_tree_is_taken() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    trees = {
        "0.weight": supports.Gated((0.5, 2.0), (0.5, 2.0)),
        "1.weight": supports.Blocks((2, 2), supports.Independent(0.3)),
    }
    by_site = {n: priors.ThreeLayer(s, collapse="support") for n, s in trees.items()}
    prior = priors.by_site(by_site, default=priors.Normal(1.0))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    assert [type(f) for f in guide_of(bnn)] == [EnumeratedFactor, EnumeratedFactor, NormalFactor]
    x, y = torch.randn(6, 4), torch.arange(6) % 2
    fit = ptv.fit(bnn, (x, y), engine=engines.SVI(guide_of), epochs=1, progress=False)
    assert math.isfinite(fit.history[-1].loss)


@pytest.mark.parametrize("collapse", [True, False])
def test_other_forms_of_the_prior_are_refused(collapse: bool) -> None:
    with pytest.raises(UnsupportedError, match=r"EnumeratedGuide cannot .*collapse='support'\)"):
        guide_of(regression.model(collapse=collapse))


def test_the_form_of_the_prior_says_what_it_is() -> None:
    prior = priors.ThreeLayer(supports.Chain(0.3, 4.0), collapse="support")
    assert not prior.discrete
    assert repr(prior).endswith(", collapse='support')")
    assert priors.from_spec(priors.to_spec(prior)) == prior
    with pytest.raises(UnsupportedError, match="over a grid cannot be collapsed"):
        priors.ThreeLayer(supports.Grid(0.3, 2.0), collapse="support")


@pytest.mark.usefixtures("no_type_checks")
def test_unknown_forms_of_the_prior() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        priors.ThreeLayer(collapse="precision")  # type: ignore[arg-type]
    assert str(error.value) == (
        'collapse is not a form of the prior; given: precision; accepted: True, False or "support"'
    )


def test_precisions_start_at_their_mean_given_the_weight() -> None:
    bnn = regression.model(collapse="support")
    site = bnn.sites["weight"]
    assert site.init is not None
    start = site.prior.start("weight", site.init)
    assert set(start) == {"weight", "weight_precision"}
    law = regression.prior(True).marginal(site.shape)
    torch.testing.assert_close(start["weight_precision"], law.expected_precision(site.init))
