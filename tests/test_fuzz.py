"""Random architectures, priors, engines and types: everything works, or says what does not."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.errors import TurboVBIError, TurboVBIWarning

ROWS, BATCH = 8, 4  # two steps an epoch
#: Examples of the test that is marked slow, and of a longer search by hand.
MANY = int(os.environ.get("FUZZ_EXAMPLES", "150"))

SUPPORTS: list[supports.Support] = [
    supports.Independent(0.3),
    supports.Chain(0.3, 3.0),
    supports.Chain(0.3, 3.0, dim=0),
    supports.Grid(0.3, 2.0),
    supports.Gated(gate=(0.5, 2.0), within=(0.3, 3.0)),
    supports.Blocks(size=(2, 2)),
]
PRIORS: list[priors.Prior] = [
    *(priors.ThreeLayer(support=support) for support in SUPPORTS),
    priors.ThreeLayer(support=supports.Chain(0.3, 3.0), gates="shared"),
    priors.ThreeLayer(support=supports.Chain(0.3, 3.0), collapse=True),
    priors.ThreeLayer(support=supports.Chain(0.3, 3.0), collapse="support"),
    priors.ThreeLayer(scale="rms"),
    priors.Normal(0.3),
    priors.Laplace(0.3),
    priors.Horseshoe(),
    priors.SpikeSlab(),
    priors.LogUniform(),
    priors.GroupNormalJeffreys(),
]
ENGINES: list[Any] = [
    engines.Turbo(),
    engines.Turbo(lean=True),
    engines.Turbo(factorisation="mean_field"),
    engines.Turbo(weights="exact"),
    engines.Turbo(learn_hyper=True),
    engines.Turbo(compact_every=1, reorder_every=1),
    engines.SVI("auto_normal"),
    engines.MAP(),
]
#: Targets by name of the likelihood.
TARGETS: dict[str, Tensor] = {
    "Categorical": torch.arange(ROWS) % 3,
    "Bernoulli": torch.arange(ROWS * 3).reshape(ROWS, 3) % 2,
    "Gaussian": torch.linspace(-1.0, 1.0, ROWS * 3).reshape(ROWS, 3),
    "Poisson": torch.arange(ROWS * 3).reshape(ROWS, 3) % 4,
}
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.int64, torch.uint8, torch.bool]


@dataclass(frozen=True)
class Case:
    """One training: all that is random of it."""

    net: nn.Module
    x: Tensor
    likelihood: str
    prior: priors.Prior
    engine: Any
    y: Tensor


class Residual(nn.Module):
    """A layer beside a plain connection."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """The shape of `x`."""
        return x + self.inner(x).tanh()  # type: ignore[no-any-return]


def dense(draw: Any, features: int) -> list[nn.Module]:
    """Up to three layers with what people put between them, then one with three outputs."""
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(0, 2))):
        width = draw(st.sampled_from([1, 2, 5]))
        layers.append(nn.Linear(features, width, bias=draw(st.booleans())))
        between = [nn.ReLU(), nn.Tanh(), nn.Identity(), nn.BatchNorm1d(width), nn.LayerNorm(width)]
        layers += [draw(st.sampled_from([*between, nn.Dropout(0.2)])), nn.ReLU()]
        if draw(st.booleans()):
            layers.append(Residual(nn.Linear(width, width)))
        features = width
    return [*layers, nn.Linear(features, 3, bias=draw(st.booleans()))]


@st.composite
def cases(draw: Any) -> Case:
    """Nets of dense and convolution layers with inputs that fit them."""
    torch.manual_seed(draw(st.integers(0, 5)))
    if draw(st.booleans()):
        features = draw(st.sampled_from([1, 4, 7]))
        layers, x = dense(draw, features), torch.randn(ROWS, features)
    else:
        channels = draw(st.sampled_from([1, 3]))
        stride, kernel = draw(st.sampled_from([(1, 1), (1, 3), (2, 3)]))
        head: list[nn.Module] = [nn.Conv2d(2, channels, kernel, stride, padding=kernel // 2)]
        head += [draw(st.sampled_from([nn.Identity(), nn.BatchNorm2d(channels)])), nn.ReLU()]
        size = -(-6 // stride)
        if draw(st.booleans()):
            head, size = [*head, nn.MaxPool2d(2)], size // 2
        layers = [*head, nn.Flatten(), *dense(draw, channels * size * size)]
        x = torch.randn(ROWS, 2, 6, 6)
    net_type = draw(st.sampled_from([*FLOATS[:2], *FLOATS[:2], *FLOATS]))
    data_type = draw(st.sampled_from([*[net_type] * 12, *DTYPES]))
    likelihood = draw(st.sampled_from(list(TARGETS)))
    y = TARGETS[likelihood]
    y = y.to(draw(st.sampled_from([*[y.dtype] * 12, *DTYPES])))
    net = nn.Sequential(*layers).to(net_type)
    prior, engine = draw(st.sampled_from(PRIORS)), draw(st.sampled_from(ENGINES))
    return Case(net, (3 * x).to(data_type), likelihood, prior, engine, y)


def check(case: Case) -> None:
    """Two steps, a prediction, a smaller net, both stored and loaded; or an error of ours.

    Whatever comes of it, the user's net and the global random and Pyro state are as before.
    """
    before, random_state = copy.deepcopy(case.net.state_dict()), torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TurboVBIWarning)  # ours; all others are errors
        with contextlib.suppress(TurboVBIError):
            use(case)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not list(pyro.get_param_store().keys())
    for name, value in case.net.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def use(case: Case) -> None:
    """All that a user does with a net."""
    likelihood = getattr(likelihoods, case.likelihood)()
    bnn = ptv.lift(case.net, likelihood=likelihood, prior=case.prior)
    fit = ptv.fit(
        bnn, (case.x, case.y), engine=case.engine, epochs=1, batch_size=BATCH, progress=False
    )
    with torch.random.fork_rng():  # draws are the user's own
        assert fit.predict(case.x, 2).mean.shape[0] == ROWS
    small = fit.compress(case.x)
    with tempfile.TemporaryDirectory() as folder:
        fit.save(Path(folder) / "fit.safetensors")
        loaded = ptv.Fit.load(Path(folder) / "fit.safetensors", case.net)
        for name, mean in fit.posterior.mean().items():
            torch.testing.assert_close(loaded.posterior.mean()[name], mean, rtol=0, atol=0)
        small.save(Path(folder) / "net.ptv")
        module = ptv.load(Path(folder) / "net.ptv")
    with torch.no_grad():
        torch.testing.assert_close(module(case.x), small.module(case.x))


HEALTH = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


@settings(max_examples=25, suppress_health_check=HEALTH)
@given(case=cases())
def test_it_works_or_says_what_does_not(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=MANY, suppress_health_check=HEALTH)
@given(case=cases())
def test_it_works_or_says_what_does_not_at_length(case: Case) -> None:
    check(case)
