"""Every file of the galleries: load by path, build, one step, compress."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors
from tests.gallery.loading import ROOT, files, load

ROWS = 16


def classes(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(ROWS, *shape), torch.arange(ROWS) % 10


def reals(features: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(ROWS, features)
    return x, x[:, 0] - x[:, 1]


def windows() -> tuple[Tensor, Tensor]:
    x = torch.arange(ROWS * 9).reshape(ROWS, 9) % 20
    return x[:, :-1], x[:, 1:]


#: What each lifted model takes. A new file needs a line here, or below.
MODELS: dict[str, tuple[Callable[[], tuple[Tensor, Tensor]], dict[str, Any]]] = {
    "char_gpt": (windows, {"width": 8, "heads": 2, "blocks": 1}),
    "digits_mlp": (lambda: classes(64), {}),
    "digits_vit": (lambda: classes(64), {"width": 8, "heads": 2, "blocks": 1}),
    "gated_recovery": (lambda: (torch.randn(ROWS, 200), torch.randn(ROWS, 20)), {}),
    "heteroscedastic_mlp": (lambda: reals(10), {}),
    "lenet_300_100": (lambda: classes(784), {}),
    "lenet_5": (lambda: classes(1, 28, 28), {}),
    "resnet_20": (lambda: classes(3, 32, 32), {}),
    "structured_recovery": (lambda: reals(1000), {}),
    "uci_mlp": (lambda: reals(13), {}),
    # narrow: 15 million weights take too long for a test
    "vgg_16": (lambda: classes(3, 32, 32), {"width": 0.125}),
}
#: Pyro models written by hand, with tests of their own in `test_models.py`.
BY_HAND = ("multi_task",)
#: The prior under which each guide works. A new file needs a line here.
GUIDES: dict[str, priors.Prior] = {
    "enumerated": priors.ThreeLayer(collapse="support"),
    "low_rank_normal": priors.Normal(),
    "mean_field_normal": priors.Normal(),
    "normalizing_flow": priors.Normal(),
    "relaxed": priors.ThreeLayer(),
    "structured_horseshoe": priors.Horseshoe(),
    "turbo": priors.ThreeLayer(),
}


@pytest.mark.parametrize(
    ("gallery", "known"), [("models", (*MODELS, *BY_HAND)), ("guides", tuple(GUIDES))]
)
def test_every_file_is_known_to_this_test(gallery: str, known: tuple[str, ...]) -> None:
    assert files(gallery) == sorted(known), "tell this test how to feed the new file"


@pytest.mark.parametrize("gallery", ["models", "guides"])
def test_galleries_hold_no_import_package(gallery: str) -> None:
    assert not (ROOT / gallery / "__init__.py").exists()


@pytest.mark.parametrize("name", MODELS)
def test_model(name: str) -> None:
    feed, arguments = MODELS[name]
    module, (x, y) = load("models", name), feed()
    bnn = module.build(**arguments)
    assert module.__doc__
    assert isinstance(bnn, ptv.BayesianNet)
    assert bnn.sites
    assert bnn.output({}, x).shape[0] == ROWS
    engine = getattr(module, "ENGINE", None)
    fit = ptv.fit(bnn, (x, y), engine=engine, epochs=1, batch_size=ROWS, progress=False)
    assert math.isfinite(fit.history[0].loss)
    assert fit.evaluate((x, y), num_samples=2).num_points == ROWS
    small = fit.compress(x, keep=0.3)
    assert small.report.kept < sum(site.shape.numel() for site in fit.bnn.sites.values())
    assert small.module(x).isfinite().all()


@pytest.mark.parametrize("name", files("guides"))
def test_guide(name: str) -> None:
    module = load("guides", name)
    assert module.__doc__
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 10))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=GUIDES[name])
    x, y = classes(4)
    engine = engines.SVI(guide=module.build)
    fit = ptv.fit(bnn, (x, y), engine=engine, epochs=1, batch_size=ROWS, progress=False)
    assert math.isfinite(fit.history[0].loss)
    assert fit.predict(x, num_samples=2).outputs.shape == (2, ROWS, 10)
    small = fit.compress(x, keep=0.5)
    assert small.module(x).isfinite().all()


@pytest.mark.parametrize("name", files("guides"))
def test_guides_work_in_a_plain_pyro_script(name: str) -> None:
    """As their texts say: for stock `pyro.infer.SVI`, outside of `fit`."""
    import pyro
    from pyro.infer import SVI, Trace_ELBO

    bnn = ptv.lift(nn.Linear(4, 10), likelihood=likelihoods.Categorical(), prior=GUIDES[name])
    guide = load("guides", name).build(bnn)
    svi = SVI(bnn, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    before = bnn.net.get_parameter("weight").detach().clone()
    losses = [svi.step(*classes(4)) for _ in range(2)]
    assert all(map(math.isfinite, losses))
    assert torch.equal(bnn.net.get_parameter("weight"), before), "only the guide is trained"
    pyro.clear_param_store()
