"""The Gaussian prior."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import poutine

from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.priors import Normal


def test_log_prob_is_the_closed_form() -> None:
    like = torch.zeros(3, 2).double()
    trace = poutine.trace(lambda: Normal(0.2).sample("w", (3, 2), init=like)).get_trace()
    w = trace.nodes["w"]["value"]
    expected = -0.5 * (w / 0.2).square().sum() - 6 * math.log(0.2 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(trace.log_prob_sum(), expected, rtol=1e-12, atol=0.0)
    assert trace.nodes["w"]["fn"].event_shape == (3, 2)
    assert trace.stochastic_nodes == ["w"]


def test_draws_have_the_declared_scale() -> None:
    draws = Normal(0.2).sample("w", (100_000,))
    assert abs(float(draws.std()) / 0.2 - 1) < 5 / (2 * 100_000) ** 0.5
    assert abs(float(draws.mean())) < 5 * 0.2 / 100_000**0.5


def test_priors_are_values() -> None:
    assert Normal(0.2) == Normal(0.2) != Normal(0.3)
    assert repr(Normal(0.2)) == "Normal(scale=0.2)"
    assert hash(Normal(0.2)) == hash(Normal(0.2))
    assert not Normal().discrete


@pytest.mark.parametrize("scale", [0.0, -0.1, math.inf, math.nan])
def test_scale_is_positive_and_finite(scale: float) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        Normal(scale)
    assert str(error.value) == (
        f"scale of a Normal prior is out of range; given: {scale}; "
        "accepted: a positive finite standard deviation"
    )
