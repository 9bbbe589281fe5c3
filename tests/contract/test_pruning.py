"""Pruning rules on a sparse regression: what is relevant stays, what is not goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro.optim import ClippedAdam
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors
from pyro_turbovbi.priors import Prior

INPUTS, ROWS, NOISE = 20, 200, 0.3
RELEVANT = {2: 1.0, 7: -0.7, 11: 0.5}

# Prior, steps, and how many irrelevant inputs of 17 may stay. The log-uniform prior hardly tells a
# weight of one posterior deviation from none, and half of what is irrelevant estimates as that.
CASES: list[tuple[Prior, int, int]] = [
    (priors.Horseshoe(), 6000, 4),
    (priors.SpikeSlab(), 1000, 1),
    (priors.LogUniform(), 1000, 14),
    (priors.GroupNormalJeffreys(), 1500, 1),
    (priors.GroupHorseshoe(), 1500, 1),
    (priors.GroupLasso(100.0), 1000, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior", "steps", "spare"), CASES, ids=[type(case[0]).__name__ for case in CASES]
)
def test_relevant_inputs_stay(prior: Prior, steps: int, spare: int) -> None:
    x, truth = torch.randn(ROWS, INPUTS), torch.zeros(INPUTS)
    truth[list(RELEVANT)] = torch.tensor(list(RELEVANT.values()))
    y = (x @ truth)[:, None] + NOISE * torch.randn(ROWS, 1)
    likelihood = likelihoods.Gaussian(NOISE, learn=False)
    bnn = ptv.lift(nn.Linear(INPUTS, 1), likelihood=likelihood, prior=prior)
    # scales have to move by nats and then settle: a large rate that decays a hundredfold
    settings: dict[str, Any] = {"lr": 0.05, "lrd": 0.01 ** (1 / steps), "clip_norm": 1e9}
    engine = engines.MAP if "vi" not in prior.inference else engines.SVI
    fit = ptv.fit(
        bnn,
        (x, y),
        engine=engine(optim=ClippedAdam(settings)),
        epochs=steps,
        batch_size=ROWS,
        progress=False,
    )
    kept = set(fit.masks()["weight"][0].nonzero().flatten().tolist())
    assert kept >= set(RELEVANT)
    assert len(kept - set(RELEVANT)) <= spare
    mean = fit.posterior.mean()["weight"][0]
    assert float((mean - truth)[list(RELEVANT)].abs().max()) < 5 * NOISE / ROWS**0.5
