"""Training, prediction and compression leave everything on the device that was asked for.

On a machine without a GPU only the CPU's half runs; `benchmarks/gpu_checks.py` does more.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import data, engines, likelihoods, priors, supports
from tests.devices import DEVICES

CHAIN = priors.ThreeLayer(support=supports.Chain(0.3, mean_run=3.0))
GRID = priors.ThreeLayer(support=supports.Grid(0.3, mean_run=(3.0, 3.0)))
SHARED = priors.ThreeLayer(support=supports.Chain(0.3, mean_run=3.0), gates="shared")
CASES: dict[str, tuple[priors.Prior, Any]] = {
    "chain": (CHAIN, engines.Turbo(messages_every=2)),
    "grid, learned": (GRID, engines.Turbo(messages_every=2, learn_hyper=True)),
    "shared gates": (SHARED, engines.Turbo(messages_every=2, gates_from=0.0)),
    "restructured": (CHAIN, engines.Turbo(messages_every=2, compact_every=1, reorder_every=1)),
    "svi": (priors.Normal(), engines.SVI()),
    "map": (priors.Normal(), engines.MAP()),
}


def images(device: str) -> tuple[Tensor, Tensor]:
    return torch.randn(40, 3, 8, 8).to(device), (torch.arange(40) % 10).to(device)


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10)),
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_everything_lies_where_it_was_asked_for(
    case: tuple[priors.Prior, Any], device: str
) -> None:
    prior, engine = case
    bnn = ptv.lift(network(), likelihood=likelihoods.Categorical(), prior=prior)
    train = data.TransformedTensors(*images(device), transform=data.augment)
    fit = ptv.fit(bnn, train, engine=engine, epochs=3, batch_size=20, device=device, progress=False)
    assert all(math.isfinite(record.loss) for record in fit.history)
    places = [*fit.posterior.mean().values(), *fit.masks(0.5).values(), *fit.bnn.parameters()]
    places += [fit.predict(images("cpu")[0], num_samples=2).probs, *fit.gate_probs().values()]
    assert {tensor.device.type for tensor in places} == {device}
    small = fit.compress(images("cpu"), keep=0.5)
    assert {value.device.type for value in small.module.state_dict().values()} == {device}
