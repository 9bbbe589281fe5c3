"""Trainings as text that is the same in every process."""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np
import pyro
import pytest
import torch
from pyro import infer
from pyro.optim import PyroOptim
from torch import nn

from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.persistence.identity import described, described_at_start, differences


def guide(model: object) -> None:
    """Stands for a guide."""


SUBJECTS = {
    "plain": ["text", 1, 0.1, None, True, (1, 2), {"a": [1.5]}],
    "engine": engines.Turbo(lr=1 / 3),
    "guide": engines.SVI(guide),  # type: ignore[arg-type]
    "optimiser": engines.SVI(optim=pyro.optim.ClippedAdam({"lr": 0.1})),
    "loss": engines.SVI(loss=infer.TraceMeanField_ELBO(num_particles=3)),
    "prior": priors.by_site({"0.*": priors.ThreeLayer(supports.Chain(0.1))}, priors.Normal(2.0)),
    "net": nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.3)),
    "likelihood": likelihoods.Gaussian(),
}


def test_the_text_says_what_counts() -> None:
    assert described(0.1 + 0.2) == "0.30000000000000004"
    assert described(np.float32(0.1)) != described(np.float32(0.2))
    assert "lr=0.3333333333333333," in described(SUBJECTS["engine"])
    assert "test_identity.guide" in described(SUBJECTS["guide"])
    assert "ClippedAdam({lr=0.1})" in described(SUBJECTS["optimiser"])
    clipped = (PyroOptim(torch.optim.Adam, {"lr": 0.1}, {"clip_norm": n}) for n in (1.0, 2.0))
    assert len({*map(described, clipped), described(PyroOptim(torch.optim.Adam, {"lr": 0.1}))}) == 3
    assert "TraceMeanField_ELBO(num_particles=3)" in described(SUBJECTS["loss"])
    assert "Chain(density=0.1, mean_run=5.0, dim=None)" in described(SUBJECTS["prior"])
    assert "Dropout(p=0.3" in described(SUBJECTS["net"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (priors.Normal(0.1), priors.Normal(0.1 + 1e-16)),
        (priors.ThreeLayer(), priors.ThreeLayer(active=pyro.distributions.Gamma(1.0, 2.0))),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.Tanh())),
        (engines.SVI(), engines.SVI(loss=infer.Trace_ELBO(num_particles=2))),
        (
            engines.SVI(optim=PyroOptim(torch.optim.SGD, {"lr": 0.1})),
            engines.SVI(optim=PyroOptim(torch.optim.Adam, {"lr": 0.1})),
        ),
    ],
)
def test_other_settings_give_another_text(one: object, other: object) -> None:
    assert described(one) == described(one)
    assert (described(one) == described(other)) == (one == other)


def test_no_text_holds_an_address() -> None:
    for subject in (*SUBJECTS.values(), object(), lambda: 0, functools.partial(guide, None)):
        assert " at 0x" not in described(subject)


def test_differences_are_shown_where_they_are() -> None:
    here = {"seed": "1", "engine": "Turbo(" + "x" * 100 + "lr=0.1)", "same": "a"}
    there = {"seed": "2", "engine": "Turbo(" + "x" * 100 + "lr=0.2)", "same": "a", "new": "b"}
    text = differences(here, there)
    assert text.startswith("seed: 1, in the checkpoint 2; engine: ...xxx")
    assert "lr=0.1)..., in the checkpoint ...x" in text
    assert text.endswith("; new: none, in the checkpoint b")
    assert differences(here, here) == ""


@pytest.mark.slow
def test_the_text_is_the_same_in_another_process() -> None:
    program = (
        "from tests.persistence.test_identity import SUBJECTS, described\n"
        "print('\\n'.join(described(s) for s in SUBJECTS.values()), end='')"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert other.stdout == "\n".join(described(subject) for subject in SUBJECTS.values())


@pytest.mark.parametrize(
    "other",
    [
        likelihoods.Gaussian(0.2, learn=False),
        likelihoods.Gaussian(0.1),
        likelihoods.Gaussian(0.1, learn=False, heteroscedastic=True),
        likelihoods.Poisson(),
    ],
)
def test_likelihoods_of_other_settings_differ(other: likelihoods.Likelihood) -> None:
    first = described_at_start(likelihoods.Gaussian(0.1, learn=False))
    assert first == described_at_start(likelihoods.Gaussian(0.1, learn=False))
    assert first != described_at_start(other)
