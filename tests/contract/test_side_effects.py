"""What a call leaves behind: nothing but its result; and the same seed gives the same bits."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from tests.contract.test_saving import differences

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(24, 4, generator=GENERATOR)
Y = torch.arange(24) % 3
CHAIN = priors.ThreeLayer(support=supports.Chain(0.3, 3.0))
SHARED = priors.ThreeLayer(support=supports.Chain(0.3, 3.0), gates="shared")
LINEAR = ("exact weights", "nuts")
CASES: dict[str, tuple[Any, Any]] = {
    "turbo": (engines.Turbo(), CHAIN),
    "lean": (engines.Turbo(lean=True), CHAIN),
    "shared gates": (engines.Turbo(), SHARED),
    "restructuring": (engines.Turbo(compact_every=1, reorder_every=1), CHAIN),
    "exact weights": (engines.Turbo(weights="exact"), CHAIN),
    "nuts": (engines.NUTS(4, 2, max_tree_depth=2), priors.by_site({"*": priors.Normal()})),
    "svi": (engines.SVI("auto_normal"), priors.Horseshoe()),
    "map": (engines.MAP(), priors.Normal(0.3)),
}


def trained(name: str) -> ptv.Fit:
    """Of a small net; of a linear-Gaussian model where the engine needs one or no more."""
    engine, prior = CASES[name]
    linear = name in LINEAR
    data = (X, X[:, :2] - X[:, 2:]) if linear else (X, Y)
    bnn = lifted(prior, linear=linear)
    return ptv.fit(bnn, data, engine=engine, epochs=2, batch_size=8, progress=False)


def lifted(prior: Any, *, linear: bool = False) -> ptv.BayesianNet:
    generator = torch.random.get_rng_state()
    torch.manual_seed(1)
    net: nn.Module = nn.Linear(4, 2, bias=False)
    if not linear:
        net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    torch.random.set_rng_state(generator)
    likelihood = likelihoods.Gaussian(learn=False) if linear else likelihoods.Categorical()
    return ptv.lift(net, likelihood=likelihood, prior=prior)


def global_state() -> dict[str, Any]:
    """What a library could change of a process."""
    return {
        "torch's random numbers": torch.get_rng_state().tolist(),
        "numpy's random numbers": [part.tolist() if isinstance(part, np.ndarray) else part
                                   for part in np.random.get_state(legacy=True)],
        "Python's random numbers": random.getstate(),
        "Pyro's parameters": sorted(pyro.get_param_store().keys()),
        "Pyro's settings": pyro.settings.get(),
        "threads": torch.get_num_threads(),
        "default type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "validation of distributions": torch.distributions.Distribution._validate_args,
        "warnings": list(warnings.filters),
    }  # fmt: skip


@pytest.mark.usefixtures("no_type_checks")  # they look at random items of a list
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_behind(name: str, tmp_path: Path) -> None:
    """By training, compressing, storing and loading; drawing is the caller's own business."""
    trained(name)  # optional packages say at their first use what they have to say
    before = global_state()
    fit = trained(name)
    small = fit.compress(X)
    fit.save(tmp_path / "fit.safetensors")
    ptv.Fit.load(tmp_path / "fit.safetensors")
    small.save(tmp_path / "net.ptv")
    ptv.load(tmp_path / "net.ptv")
    after = global_state()
    assert {key for key in before if before[key] != after[key]} == set()


@pytest.mark.parametrize("name", CASES)
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    """Whatever was drawn before."""
    first = trained(name)
    torch.randn(7)
    second = trained(name)
    assert differences(first.posterior.moments(), second.posterior.moments()) == []
    assert differences(first.support_probs(), second.support_probs()) == []
    assert first.history.elbo == second.history.elbo
    assert first.elbo == second.elbo


DRAWS: dict[str, Callable[[ptv.Fit], Any]] = {
    "sample": lambda fit: fit.sample(2),
    "predict": lambda fit: fit.predict(X, 2).mean,
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_follow_the_caller_s_seed(name: str) -> None:
    fit, found = trained("turbo"), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(DRAWS[name](fit))
    assert differences(found[0], found[1]) == []
    assert differences(found[0], found[2]) != []
