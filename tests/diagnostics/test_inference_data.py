from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.diagnostics import leave_one_out
from pyro_turbovbi.diagnostics._arviz import Groups, from_groups, import_arviz
from pyro_turbovbi.diagnostics.inference_data import to_inference_data
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, SiteError

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
LABELS = (X[:, 0] > 0).long() + (X[:, 1] > 0.5).long()
SPARSE = priors.ThreeLayer(supports.Chain(density=0.3, mean_run=2.0))


def _fit(likelihood: Any, y: torch.Tensor, outputs: int, engine: Any, prior: Any) -> ptv.Fit:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, outputs))
    bnn = ptv.lift(net, likelihood=likelihood, prior=prior)
    return ptv.fit(bnn, (X, y), engine=engine, epochs=2, progress=False)


@pytest.fixture(scope="module")
def classifier() -> ptv.Fit:
    whole = engines.ModelReduction(strength=0.0)  # after two epochs all means would be zero
    return _fit(likelihoods.Categorical(), LABELS, 3, engines.Turbo(reduction=whole), SPARSE)


@pytest.fixture(scope="module")
def regression() -> ptv.Fit:
    return _fit(likelihoods.Gaussian(), X[:, 2], 1, engines.SVI(), priors.Normal())


def test_all_groups_are_there_with_named_dimensions(classifier: ptv.Fit) -> None:
    data = to_inference_data(classifier, (X, LABELS), num_samples=20)
    groups = "posterior posterior_predictive log_likelihood observed_data constant_data"
    assert set(data.groups()) == set(groups.split())
    assert dict(data.posterior.sizes) == {
        "chain": 1,
        "draw": 20,
        "0.weight_index": 8,
        "2.weight_index": 8,
        "site": 2,
    }
    for group in (data.posterior_predictive, data.log_likelihood):
        assert group["y"].dims == ("chain", "draw", "point")
        assert group["y"].shape == (1, 20, 30)
    assert np.array_equal(data.observed_data["y"], LABELS)
    assert data.constant_data["x"].dims == ("point", "x_dim_1")
    assert set(np.unique(data.posterior_predictive["y"])) <= {0, 1, 2}


def test_the_trace_of_the_elbo_and_the_engine_are_attributes(classifier: ptv.Fit) -> None:
    attrs = to_inference_data(classifier, (X, LABELS), num_samples=2).attrs
    assert attrs["elbo_trace"] == classifier.history.elbo
    assert (attrs["engine"], attrs["elbo_kind"]) == ("turbo", "bound")
    assert attrs["elbo"] == classifier.elbo
    assert attrs["inference_library"] == "pyro_turbovbi"


def test_hyperparameters_are_constant_data(classifier: ptv.Fit) -> None:
    data = to_inference_data(classifier, (X, LABELS), num_samples=2)
    table = data.constant_data["hyperparameters"]
    assert table.dims == ("weight", "hyperparameter")
    for name, values in classifier.hyperparameters().items():
        row = table.sel(weight=name)
        assert {str(k): float(row.sel(hyperparameter=k)) for k in values} == values
    assert "learned" not in data.attrs
    mixed = priors.by_site({"0.weight": SPARSE}, default=priors.Normal(0.5))
    learning = engines.Turbo(learn_hyper=True)
    fit = _fit(likelihoods.Categorical(), LABELS, 3, learning, mixed)
    data = to_inference_data(fit, (X, LABELS), num_samples=2)
    table = data.constant_data["hyperparameters"]
    assert data.attrs["learned"] == "0.weight"
    density = fit.hyperparameters()["0.weight"]["density"]
    assert density != pytest.approx(0.3), "two epochs are enough to move it"
    assert float(table.sel(weight="0.weight", hyperparameter="density")) == density
    assert float(table.sel(weight="2.weight", hyperparameter="scale")) == 0.5
    assert np.isnan(table.sel(weight="2.weight", hyperparameter="density"))


def test_draws_have_the_moments_of_the_posterior(classifier: ptv.Fit) -> None:
    whole = to_inference_data(classifier, (X, LABELS), num_samples=2000, sites=["0.weight"])
    draws = whole.posterior["0.weight"].values.reshape(2000, 5, 4)
    scales = classifier.posterior.scale()
    assert scales is not None
    scale = scales["0.weight"].numpy()
    error = 5 * scale / 2000**0.5
    assert (abs(draws.mean(0) - classifier.posterior.mean()["0.weight"].numpy()) < error).all()
    assert draws.std(0) == pytest.approx(scale, rel=0.1)
    probs = classifier.support_probs()["0.weight"]
    density = whole.posterior["density"].sel(site="0.weight")
    assert float(density.mean()) == pytest.approx(float(probs.mean()), abs=0.02)
    bernoulli = float((probs * (1 - probs)).sum().sqrt()) / probs.numel()
    assert float(density.std()) == pytest.approx(bernoulli, rel=0.1, abs=1e-6)


def test_the_log_likelihood_is_that_of_the_draws(regression: ptv.Fit) -> None:
    sites = list(regression.bnn.sites)
    data = to_inference_data(regression, (X, X[:, 2]), num_samples=3, sites=sites)
    for i in range(3):
        weights = {
            name: torch.from_numpy(data.posterior[name].values[0, i]).view(site.shape)
            for name, site in regression.bnn.sites.items()
        }
        output = regression.bnn.output(weights, X).squeeze(1)
        law = torch.distributions.Normal(output, regression.bnn.likelihood.scale)
        expected = law.log_prob(X[:, 2]).detach().numpy()
        assert data.log_likelihood["y"].values[0, i] == pytest.approx(expected, abs=1e-4)
    assert float(data.posterior["likelihood.log_scale"].std()) == 0.0
    assert data.observed_data["y"].shape == (30, 1)
    assert data.posterior_predictive["y"].shape == (1, 3, 30, 1)
    assert "density" not in data.posterior


def test_arvizs_own_functions_take_it(regression: ptv.Fit) -> None:
    data = to_inference_data(regression, (X, X[:, 2]), num_samples=1000)
    arviz = import_arviz()
    theirs = arviz.loo(data, reff=1.0)
    ours = leave_one_out(regression, (X, X[:, 2]))
    assert theirs.elpd_loo == pytest.approx(ours.elpd, abs=5 * 0.1 * ours.standard_error)
    summary = arviz.summary(data, kind="stats")
    assert sum(name.startswith("0.weight[") for name in summary.index) == 8


def test_it_survives_a_file(classifier: ptv.Fit, tmp_path: Path) -> None:
    data = to_inference_data(classifier, (X, LABELS), num_samples=4)
    data.to_netcdf(str(tmp_path / "fit.nc"))
    again = import_arviz().from_netcdf(str(tmp_path / "fit.nc"))
    assert np.array_equal(again.posterior["0.weight"], data.posterior["0.weight"])
    assert list(again.attrs["elbo_trace"]) == classifier.history.elbo


def test_by_default_the_largest_weights_are_chosen(classifier: ptv.Fit) -> None:
    data = to_inference_data(classifier, (X, LABELS), num_samples=2)
    mean = classifier.posterior.mean()["0.weight"].abs()
    chosen = [tuple(map(int, x.split(","))) for x in data.posterior["0.weight_index"].values]
    smallest = min(mean[place] for place in chosen)
    assert int((mean >= smallest).sum()) == 8
    assert chosen == sorted(chosen)


def test_masks_choose_weights(classifier: ptv.Fit) -> None:
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 4] = mask[0, 2] = True
    data = to_inference_data(classifier, (X, LABELS), num_samples=2, sites={"2.weight": mask})
    assert data.posterior["2.weight_index"].values.tolist() == ["0,2", "1,4"]
    assert "0.weight" not in data.posterior


def test_the_draws_depend_on_the_seed_alone(classifier: ptv.Fit) -> None:
    state = torch.get_rng_state()
    first, second = (
        to_inference_data(classifier, (X, LABELS), num_samples=2, seed=seed) for seed in (1, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert first.posterior.equals(second.posterior)
    assert first.posterior_predictive.equals(second.posterior_predictive)


def test_bad_arguments_are_refused(classifier: ptv.Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(**arguments: Any) -> None:
        to_inference_data(classifier, (X, LABELS), **arguments)

    with pytest.raises(InvalidArgumentError, match="num_samples is out of range; given: 0"):
        export(num_samples=0)
    with pytest.raises(SiteError, match=r"unknown weight sites.*accepted: 0\.weight, 2\.weight"):
        export(sites=["1.weight"])
    with pytest.raises(ShapeError, match=r"mask of weight '0.weight'.*accepted: \(5, 4\)"):
        export(sites={"0.weight": torch.ones(4, 5, dtype=torch.bool)})
    with pytest.raises(InvalidArgumentError, match=r"mask of weight '0.weight' is not boolean"):
        export(sites={"0.weight": torch.ones(5, 4)})
    monkeypatch.setattr("pyro_turbovbi.diagnostics.inference_data.MOST_WEIGHTS", 10)
    with pytest.raises(InvalidArgumentError, match=r"too many weights for ArviZ.*given: 20"):
        export(sites="0.weight")


def _fake(version: str, calls: list[Any]) -> Any:
    def from_dict(*args: Any, **kwargs: Any) -> str:
        calls.append((args, kwargs))
        return "result"

    return SimpleNamespace(__version__=version, from_dict=from_dict)


GROUPS = Groups(
    data={"posterior": {"w": 1}, "observed_data": {"y": 2}},
    coords={"point": [0, 1]},
    dims={"y": ("point",)},
    attrs={"engine": "turbo"},
)
SHARED = {"coords": {"point": [0, 1]}, "dims": {"y": ["point"]}}


def test_arviz_0_gets_a_keyword_for_each_group() -> None:
    calls: list[Any] = []
    assert from_groups(GROUPS, _fake("0.23.4", calls)) == "result"
    groups = {"posterior": {"w": 1}, "observed_data": {"y": 2}}
    assert calls == [((), groups | SHARED | {"attrs": {"engine": "turbo"}})]


@pytest.mark.parametrize("version", ["1.0.0", "1.3.0rc1", "2.0.0.dev0"])
def test_arviz_1_gets_one_dictionary_and_root_attributes(version: str) -> None:
    calls: list[Any] = []
    assert from_groups(GROUPS, _fake(version, calls)) == "result"
    nested = {"posterior": {"w": 1}, "observed_data": {"y": 2}}
    assert calls == [((nested,), SHARED | {"attrs": {"/": {"engine": "turbo"}}})]
