"""One contract over all priors and stock engines.

A prior either fits, predicts and compresses under an engine, or the engine raises an
`UnsupportedError` that names alternatives. Its fit starts at the net's own weights, and its pruning
rule is the default of `Fit.masks` and `Fit.compress`.
"""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import infer, poutine
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.priors import Prior

PRIORS: dict[str, Prior] = {
    "normal": priors.Normal(0.5),
    "laplace": priors.Laplace(),
    "student": priors.StudentT(),
    "horseshoe": priors.Horseshoe(),
    "spike slab": priors.SpikeSlab(),
    "log-uniform": priors.LogUniform(),
    "group jeffreys": priors.GroupNormalJeffreys(),
    "group horseshoe": priors.GroupHorseshoe(),
    "group lasso": priors.GroupLasso(),
}
ENGINES: dict[str, engines.Turbo | engines.SVI] = {
    "turbo": engines.Turbo(),
    "auto_normal": engines.SVI("auto_normal"),
    "auto_low_rank": engines.SVI("auto_low_rank_multivariate_normal"),
    "auto_structured": engines.SVI("auto_structured"),
    "map": engines.MAP(),
}
REFUSED = {
    **{("turbo", name): "priors.Normal" for name in PRIORS if name != "normal"},
    **{(e, "group lasso"): "engines.MAP()" for e in ENGINES if e.startswith("auto")},
    ("map", "group horseshoe"): "engines.SVI()",
}
CASES = [(e, p) for e in ENGINES for p in PRIORS]
CAN = [case for case in CASES if case not in REFUSED]

ROWS = 12
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(ROWS, 2, 5, 5, generator=GENERATOR)
LABELS = torch.arange(ROWS) % 3


def conv_net() -> nn.Module:
    """A kernel, a matrix, and units between them."""
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3))


def lifted(prior: Prior) -> ptv.BayesianNet:
    return ptv.lift(conv_net(), likelihood=likelihoods.Categorical(), prior=prior)


def fit(engine: engines.Turbo | engines.SVI, bnn: ptv.BayesianNet) -> ptv.Fit:
    """Two steps."""
    return ptv.fit(
        bnn, (IMAGES, LABELS), engine=engine, epochs=1, batch_size=ROWS // 2, progress=False
    )


@pytest.mark.parametrize(("engine", "prior"), CAN)
def test_fits_predicts_and_compresses(engine: str, prior: str) -> None:
    result = fit(ENGINES[engine], lifted(PRIORS[prior]))
    assert math.isfinite(result.history[-1].loss)
    assert (result.elbo is None) == (engine == "map")
    shapes = {name: site.shape for name, site in result.bnn.sites.items()}
    for values in (result.posterior.mean(), result.posterior.draw()):
        assert {name: value.shape for name, value in values.items()} == shapes
        assert all(value.isfinite().all() for value in values.values())
    assert result.predict(IMAGES, num_samples=2).outputs.shape == (2, ROWS, 3)

    masks, again = result.masks(), result.masks()
    assert {name: mask.shape for name, mask in masks.items()} == shapes
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert torch.equal(mask, again[name]), "a rule says the same at every call"
    net = result.mean_net()
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(mask)
    small = result.compress(IMAGES)
    torch.testing.assert_close(small.module(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-5)
    kept = torch.cat([mask.flatten() for mask in result.masks(0.25).values()])
    assert kept.double().mean() == pytest.approx(0.25, abs=0.02)
    assert list(pyro.get_param_store().keys()) == []


@pytest.mark.parametrize(("engine", "prior"), REFUSED)
def test_or_says_so_and_names_alternatives(engine: str, prior: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        fit(ENGINES[engine], lifted(PRIORS[prior]))
    message = str(error.value)
    assert repr(PRIORS[prior]) in message
    assert REFUSED[engine, prior] in message.split("; accepted: ")[1]


def test_a_guide_of_ones_own_is_refused_like_an_autoguide() -> None:
    engine = engines.SVI(infer.autoguide.AutoNormal)
    with pytest.raises(UnsupportedError) as error:
        fit(engine, lifted(PRIORS["group lasso"]))
    assert str(error.value) == (
        "engine 'svi (custom guide)' cannot handle a prior of the model: it is for MAP estimates "
        "only; given: GroupLasso(strength=1.0, tolerance=0.01, dim=None) of weight '0.weight', "
        "GroupLasso(strength=1.0, tolerance=0.01, dim=None) of weight '3.weight'; accepted: "
        "engines.MAP(), another prior by bnn.with_prior(priors.Normal())"
    )
    points = engines.SVI(infer.autoguide.AutoDelta)
    assert fit(points, lifted(PRIORS["group lasso"])).elbo_kind == "log joint"


@pytest.mark.parametrize("prior", [p for p in PRIORS if p != "group lasso"])
@pytest.mark.parametrize("name", ["auto_normal", "auto_low_rank_multivariate_normal"])
def test_training_starts_at_the_nets_own_weights(prior: str, name: str) -> None:
    bnn = lifted(PRIORS[prior])
    result = fit(engines.SVI(name, lr=1e-9), bnn)
    for weight, site in bnn.sites.items():
        assert site.init is not None
        mean = result.posterior.mean()[weight]
        torch.testing.assert_close(mean, site.init, rtol=1e-4, atol=1e-5)
        spread = (result.posterior.draw()[weight] - site.init).square().mean().sqrt()
        assert spread < 0.2 * site.init.square().mean().sqrt() + 0.05


@pytest.mark.parametrize("prior", PRIORS)
def test_priors_are_genuine_pyro_programs(prior: str) -> None:
    """Every site has a law, no name has a further dot, and stock Pyro runs the model."""
    bnn = lifted(PRIORS[prior]).eval()
    trace = poutine.trace(bnn).get_trace(IMAGES, LABELS)
    assert math.isfinite(float(trace.log_prob_sum().detach()))
    for name in set(trace.stochastic_nodes) - {"data"}:
        assert name.startswith(("0.weight", "3.weight"))
        assert name.count(".") == 1
    for name, site in bnn.sites.items():
        weight: Tensor = trace.nodes[name]["value"]
        assert weight.shape == site.shape
    relations = infer.inspect.get_dependencies(bnn, (IMAGES, LABELS))
    assert set(relations["prior_dependencies"]) == set(trace.stochastic_nodes) - {"data"} | {"y"}
    drawn = infer.Predictive(bnn, num_samples=2)(IMAGES)
    assert drawn["y"].shape == (2, ROWS)


def test_priors_are_swapped_and_compared() -> None:
    bnn = lifted(PRIORS["normal"])
    fits = {
        name: fit(engines.MAP() if name == "group lasso" else engines.SVI(), bnn.with_prior(prior))
        for name, prior in PRIORS.items()
    }
    table = ptv.compare(fits, (IMAGES, LABELS), num_samples=2)
    assert [row.name for row in table.rows] == list(PRIORS)
    assert all(row.uncut is None for row in table.rows)
    mixed = priors.by_site({"0.weight": priors.GroupHorseshoe()}, default=priors.LogUniform())
    masks = fit(engines.SVI(), bnn.with_prior(mixed)).masks()
    assert set(masks) == {"0.weight", "3.weight"}
