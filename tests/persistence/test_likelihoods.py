"""Likelihoods as plain data: bit for bit, and only those of the package."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pyro_turbovbi import likelihoods
from pyro_turbovbi.errors import ArtifactError
from pyro_turbovbi.likelihoods import Likelihood
from pyro_turbovbi.persistence.likelihoods import made, of_plain, storable, to_plain

ALL = [
    likelihoods.Categorical(),
    likelihoods.Bernoulli(),
    likelihoods.Poisson(),
    likelihoods.Gaussian(0.3),
    likelihoods.Gaussian(0.3).double(),
    likelihoods.Gaussian(1e-3, learn=False),
    likelihoods.Gaussian(heteroscedastic=True),
]


class Own(likelihoods.Gaussian):
    """A user's."""


@pytest.mark.parametrize("likelihood", ALL, ids=lambda one: type(one).__name__)
def test_a_likelihood_comes_back_bit_for_bit(likelihood: Likelihood) -> None:
    assert storable(likelihood)
    again = of_plain(json.loads(json.dumps(to_plain(likelihood))))
    assert type(again) is type(likelihood)
    assert repr(again) == repr(likelihood)
    states = likelihood.state_dict(), again.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert value.dtype == states[1][name].dtype
        assert torch.equal(value, states[1][name])
    assert not any(p.requires_grad for p in again.parameters())


def test_learned_noise_is_kept_and_not_where_it_started() -> None:
    likelihood = likelihoods.Gaussian(2.0)
    with torch.no_grad():
        likelihood.log_scale.fill_(-1.2345678)
    again = of_plain(to_plain(likelihood))
    assert isinstance(again, likelihoods.Gaussian)
    assert again.scale == likelihood.scale
    assert again.learn


def test_what_says_itself_takes_little() -> None:
    assert to_plain(likelihoods.Categorical()) == {"kind": "Categorical"}


def test_likelihoods_of_others_are_not_stored() -> None:
    assert not storable(Own())


@pytest.mark.parametrize("kind", ["Own", "Likelihood_", "nn", "log", "InvalidDataError"])
def test_unknown_kinds_are_refused(kind: str) -> None:
    with pytest.raises(ArtifactError) as error:
        made(kind, {})
    assert str(error.value) == f"the file has an unknown likelihood; given: {kind}"


@pytest.mark.parametrize(
    "plain",
    [
        {},
        {"kind": "Likelihood"},
        {"kind": "Gaussian", "arguments": {"sigma": 1.0}},
        {"kind": "Gaussian", "state": {}},
        {"kind": "Gaussian", "state": {"log_scale": ["int8", 1]}},
        {"kind": "Gaussian", "state": {"log_scale": ["float32", [1.0, 2.0]]}},
    ],
)
def test_forged_data_does_not_pass(plain: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, RuntimeError)):
        of_plain(plain)
