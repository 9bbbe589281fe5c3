"""One contract over all engines.

On every kind of model an engine either fits, predicts and compresses, or raises an
`UnsupportedError` that names alternatives; it never drops a site silently.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.batches import Batch
from pyro_turbovbi.engines import Engine, Plan
from pyro_turbovbi.errors import UnsupportedError

GUIDES = Path(__file__).resolve().parents[2] / "guides"
ROWS = 12


def guide_of(file: str) -> Callable[[ptv.BayesianNet], Any]:
    spec = importlib.util.spec_from_file_location(f"guides_{file}", GUIDES / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    build: Callable[[ptv.BayesianNet], Any] = module.build
    return build


ENGINES: dict[str, engines.Turbo | engines.SVI | engines.NUTS] = {
    "turbo structured": engines.Turbo(),
    "turbo mean field": engines.Turbo(factorisation="mean_field"),
    "turbo exact": engines.Turbo(weights="exact"),
    "svi auto_normal": engines.SVI("auto_normal"),
    "svi low rank": engines.SVI("auto_low_rank_multivariate_normal"),
    "svi turbo guide": engines.SVI(guide_of("turbo")),
    "svi relaxed guide": engines.SVI(guide_of("relaxed")),
    "svi enumerated guide": engines.SVI(guide_of("enumerated")),
    "map": engines.MAP(),
    "nuts": engines.NUTS(num_samples=3, warmup=2, max_tree_depth=4),
}


@dataclass(frozen=True)
class Case:
    """A model and a batch for it."""

    build: Callable[[], ptv.BayesianNet]
    x: Tensor
    y: Tensor


def lifted(net: nn.Module, prior: priors.Prior, likelihood: Any = None) -> ptv.BayesianNet:
    return ptv.lift(net, likelihood=likelihood or likelihoods.Categorical(), prior=prior)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))


def linear_gaussian(prior: priors.Prior) -> ptv.BayesianNet:
    return lifted(nn.Linear(4, 1), prior, likelihoods.Gaussian(0.5))


def all_sampled(prior: priors.Prior) -> ptv.BayesianNet:
    """No parameter is trained as a point."""
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False))
    everything = priors.by_site({"*.bias": NORMAL}, default=prior)
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=everything)


LABELS = torch.arange(ROWS) % 3
GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn(ROWS, 4, generator=GENERATOR)
IMAGES = torch.randn(ROWS, 1, 5, 5, generator=GENERATOR)
REALS = FEATURES.sum(1)
CHAIN = priors.ThreeLayer(support=supports.Chain(0.3, 3.0))
GRID = priors.ThreeLayer(support=supports.Grid(0.3, 2.0))
COLLAPSED = priors.ThreeLayer(support=supports.Chain(0.3, 3.0), collapse=True)
SUPPORT_COLLAPSED = priors.ThreeLayer(support=supports.Chain(0.3, 3.0), collapse="support")
SHARED = priors.ThreeLayer(support=supports.Chain(0.3, 3.0), gates="shared")
NORMAL = priors.Normal(0.5)
MODELS = {
    "mlp, chain": Case(lambda: lifted(mlp(), CHAIN), FEATURES, LABELS),
    "mlp, grid": Case(lambda: lifted(mlp(), GRID), FEATURES, LABELS),
    "mlp, shared gates": Case(lambda: lifted(mlp(), SHARED), FEATURES, LABELS),
    "mlp, normal": Case(lambda: lifted(mlp(), NORMAL), FEATURES, LABELS),
    "mlp, collapsed": Case(lambda: lifted(mlp(), COLLAPSED), FEATURES, LABELS),
    "all sampled, collapsed": Case(lambda: all_sampled(COLLAPSED), FEATURES, LABELS),
    "mlp, support collapsed": Case(lambda: lifted(mlp(), SUPPORT_COLLAPSED), FEATURES, LABELS),
    "all sampled, support collapsed": Case(
        lambda: all_sampled(SUPPORT_COLLAPSED), FEATURES, LABELS
    ),
    "all sampled, normal": Case(lambda: all_sampled(NORMAL), FEATURES, LABELS),
    "conv, chain": Case(lambda: lifted(conv(), CHAIN), IMAGES, LABELS),
    "conv, shared gates": Case(lambda: lifted(conv(), SHARED), IMAGES, LABELS),
    "linear-Gaussian, chain": Case(lambda: linear_gaussian(CHAIN), FEATURES, REALS),
    "linear-Gaussian, normal": Case(lambda: linear_gaussian(NORMAL), FEATURES, REALS),
}


def handles(engine: str, model: str) -> bool:
    """What each engine promises."""
    if model.endswith("shared gates"):
        return engine in ("turbo structured", "svi turbo guide")
    if engine == "turbo exact":
        return model.startswith("linear-Gaussian")
    if engine == "nuts":
        return model.startswith("all sampled")
    if engine in ("svi auto_normal", "svi low rank", "map"):
        return model.endswith(("normal", "collapsed"))
    if engine == "svi enumerated guide":
        return model.endswith(("normal", "support collapsed"))
    return not model.endswith("collapsed")


CAN = [(e, m) for e in ENGINES for m in MODELS if handles(e, m)]
CANNOT = [(e, m) for e in ENGINES for m in MODELS if not handles(e, m)]


def fit(engine: str, case: Case, **options: Any) -> ptv.Fit:
    """Two steps."""
    size = ROWS if ENGINES[engine].full_batch else ROWS // 2
    epochs = 2 if ENGINES[engine].full_batch else 1
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": size, "progress": False}
    data = (case.x, case.y)
    return ptv.fit(case.build(), data, engine=ENGINES[engine], **(settings | options))


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_are_settings_with_a_name_and_all_verbs(engine: str) -> None:
    subject = ENGINES[engine]
    assert isinstance(subject, Engine)
    assert subject.name
    assert repr(subject)
    with pytest.raises(AttributeError):
        subject.lr = 1.0  # type: ignore[misc]


def test_names_tell_engines_apart() -> None:
    custom = ("svi relaxed guide", "svi enumerated guide")  # all guides of one's own are "custom"
    names = [ENGINES[e].name for e in ENGINES if e not in ("turbo exact", *custom)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("engine", "model"), CAN)
def test_fits_predicts_and_compresses(engine: str, model: str) -> None:
    case = MODELS[model]
    before = dict(vars(ENGINES[engine]))
    result = fit(engine, case)
    assert vars(ENGINES[engine]) == before, "an engine holds settings only"
    sites = result.bnn.sites

    assert math.isfinite(result.history[-1].loss)
    assert result.elbo_kind in ("exact", "bound", "Bethe", "log joint")
    assert (result.elbo is None) == (result.elbo_kind == "log joint")
    assert result.elbo is None or math.isfinite(result.elbo)

    outputs = result.predict(case.x, num_samples=3).outputs
    classes = 1 if "Gaussian" in model else 3
    assert outputs.shape == (3, ROWS, classes)
    assert outputs.isfinite().all()
    assert result.evaluate((case.x, case.y), num_samples=3).num_points == ROWS

    for values in (result.posterior.mean(), result.posterior.draw(), result.support_probs()):
        assert {n: v.shape for n, v in values.items()} == {n: s.shape for n, s in sites.items()}
        assert all(v.isfinite().all() for v in values.values())
    for name, probs in result.support_probs().items():
        if isinstance(sites[name].prior, priors.ThreeLayer):
            assert ((probs >= 0) & (probs <= 1)).all()
            assert not (probs == 1).all(), "a three-layer prior has support probabilities"
        else:
            assert (probs == 1).all()

    net = result.mean_net()
    masks = result.masks(0.5)
    with torch.no_grad():
        for name, mask in masks.items():
            net.get_parameter(name).mul_(mask)
    small = result.compress(case.x, keep=0.5)
    torch.testing.assert_close(small.module(case.x), net(case.x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("engine", "model"), CANNOT)
def test_or_says_so_and_names_alternatives(engine: str, model: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        fit(engine, MODELS[model])
    message = str(error.value)
    assert "; given: " in message
    alternatives = message.split("; accepted: ")[1]
    if engine == "turbo exact":
        assert 'weights="diagonal"' in alternatives
    else:
        assert "engines.Turbo()" in alternatives
        assert "priors.Normal()" in alternatives


@pytest.mark.parametrize(("engine", "model"), CAN)
def test_verbs_of_the_protocol(engine: str, model: str) -> None:
    """`init`, `step`, `evaluate`, `finish`, `posterior`, as `fit` calls them."""
    case, subject = MODELS[model], ENGINES[engine]
    bnn = case.build()
    bnn.num_data = ROWS
    batch = Batch((case.x, case.y))
    state = subject.init(bnn, Plan(ROWS, 2, batch))
    losses = [subject.step(state, batch) for _ in range(2)]
    assert all(type(loss) is float and math.isfinite(loss) for loss in losses)
    subject.finish(state)
    before = subject.posterior(state).support_probs()
    bnn.eval()
    assert math.isfinite(subject.evaluate(state, batch))
    after = subject.posterior(state).support_probs()
    assert (before is None) == (after is None)
    for name, probs in (before or {}).items():
        assert after is not None
        assert torch.equal(probs, after[name]), "evaluate changes nothing"


@pytest.mark.parametrize("engine", [e for e in ENGINES if e != "turbo exact"])
def test_the_loss_is_on_the_scale_of_the_whole_data_set(engine: str) -> None:
    """A batch that stands for 100 times its rows has about 100 times its misfit."""
    bnn = lifted(nn.Linear(4, 1, bias=False), NORMAL, likelihoods.Gaussian(0.01, learn=False))
    batch = Batch((FEATURES, REALS + 5.0))
    losses = []
    for num_data in (ROWS, 100 * ROWS):
        bnn.num_data = num_data
        torch.manual_seed(0)
        state = ENGINES[engine].init(bnn.eval(), Plan(num_data, 1, batch))
        losses.append(ENGINES[engine].evaluate(state, batch))
    assert losses[1] == pytest.approx(100 * losses[0], rel=0.05)
