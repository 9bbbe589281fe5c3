"""The diagnostics as methods of `Fit`: they hand their arguments on and return what is promised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.diagnostics import leave_one_out, variational_khat

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
CLASSES = (X, (X[:, 0] > 0).long())
TARGETS = (X, X[:, 1])


@pytest.fixture(scope="module")
def classifier() -> ptv.Fit:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    prior = priors.ThreeLayer(supports.Chain(density=0.3, mean_run=2.0))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    return ptv.fit(bnn, CLASSES, epochs=2, progress=False)


@pytest.fixture(scope="module")
def regression() -> ptv.Fit:
    bnn = ptv.lift(nn.Linear(3, 1), likelihood=likelihoods.Gaussian(), prior=priors.Normal(1.0))
    return ptv.fit(bnn, TARGETS, engine=engines.SVI(), epochs=2, progress=False)


def test_loo_and_khat_are_those_of_the_functions(classifier: ptv.Fit) -> None:
    loo = leave_one_out(classifier, CLASSES, num_draws=30, seed=1)
    assert torch.equal(classifier.loo(CLASSES, num_draws=30, seed=1).pointwise, loo.pointwise)
    khat = variational_khat(classifier, CLASSES, num_draws=30, seed=1)
    assert classifier.khat(CLASSES, num_draws=30, seed=1).k == khat.k


def test_to_arviz_hands_its_arguments_on(classifier: ptv.Fit) -> None:
    data = classifier.to_arviz(CLASSES, num_samples=3, sites=["2.weight"], seed=1)
    assert data.posterior["2.weight"].shape == (1, 3, 8)
    assert "0.weight" not in data.posterior
    other = classifier.to_arviz(CLASSES, num_samples=3, sites=["2.weight"], seed=2)
    assert not data.posterior.equals(other.posterior)


def test_pictures_are_figures(classifier: ptv.Fit, regression: ptv.Fit) -> None:
    figures = {
        "turbo": classifier.plot_elbo(),
        "0.weight\n4x3": classifier.plot_supports(),
        "Reliability": classifier.plot_reliability(CLASSES, num_samples=2),
        "Calibration of the density": regression.plot_pit(TARGETS, num_samples=2),
    }
    assert all(isinstance(figure, Figure) for figure in figures.values())
    titles = [figure.axes[0].get_title() for figure in figures.values()]
    assert titles[1].startswith("0.weight\n4x3")
    assert titles[2:] == ["Reliability", "Calibration of the density"]
    legend = figures["turbo"].axes[0].get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == "turbo"


def test_neither_arviz_nor_pandas_is_imported_with_the_package() -> None:
    script = (
        "import sys, pyro_turbovbi, pyro_turbovbi.diagnostics\n"
        "heavy = {'arviz', 'xarray', 'matplotlib', 'pandas'}\n"
        "found = heavy & {name.split('.')[0] for name in sys.modules}\n"
        "assert not found, found\n"
    )
    root = Path(ptv.__file__).parents[1]
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root, timeout=120)
