"""Laplace and Student's t priors against torch's densities."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import poutine
from torch import distributions as td

from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.priors import Laplace, Moments, Prior, StudentT

LIKE = torch.zeros(3, 2).double()


@pytest.mark.parametrize(
    ("prior", "oracle"),
    [(Laplace(0.2), td.Laplace(0.0, 0.2)), (StudentT(4.0, 0.2), td.StudentT(4.0, 0.0, 0.2))],
    ids=["laplace", "student"],
)
def test_log_prob_and_the_single_site(prior: Prior, oracle: td.Distribution) -> None:
    trace = poutine.trace(lambda: prior.sample("w", (3, 2), init=LIKE)).get_trace()
    w = trace.nodes["w"]["value"]
    assert w.dtype == torch.float64
    torch.testing.assert_close(trace.log_prob_sum(), oracle.log_prob(w).sum(), rtol=1e-6, atol=0.0)
    assert trace.stochastic_nodes == ["w"]
    assert trace.nodes["w"]["fn"].event_shape == (3, 2)
    draws = prior.sample("w", (100_000,)).abs().sort().values
    quartile = float(draws[50_000])  # of |w|: where the distribution function is 3/4
    expected = 0.2 * math.log(2) if isinstance(prior, Laplace) else 0.2 * 0.74070
    assert quartile == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("prior", [Laplace(), StudentT()], ids=["laplace", "student"])
def test_there_is_no_rule_of_the_authors(prior: Prior) -> None:
    assert prior.survivors("w", {"w": Moments(torch.zeros(2), torch.ones(2))}) is None
    assert prior.inference == {"map", "vi", "mcmc"}
    assert not prior.discrete
    assert hash(prior) == hash(type(prior)())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Laplace(0.0), "scale of a Laplace prior is out of range; given: 0.0"),
        (lambda: StudentT(scale=math.inf), "scale of a StudentT prior is out of range; given: inf"),
        (lambda: StudentT(df=math.nan), "df of a StudentT prior is out of range; given: nan"),
    ],
)
def test_numbers_are_positive_and_finite(build: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        build()  # type: ignore[operator]
    assert str(error.value) == f"{message}; accepted: a positive finite number"
