"""The weight effect: discovery, substitution, and what stock handlers see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from pyro_turbovbi.priors import Normal, Prior, SubstituteWeights, ThreeLayer, discover_weights
from pyro_turbovbi.priors.base import (
    INFERENCE,
    NonCentred,
    WeightSite,
    emit_each,
    fan_in,
    start_value,
)
from pyro_turbovbi.supports import Independent


class Forbidden(Prior):
    """A prior that must not be drawn from."""

    def emit(self, name: str, shape: torch.Size, like: Tensor) -> Tensor:
        raise AssertionError(f"{name} was drawn from its prior")


def model(prior: Prior, init: Tensor | None = None) -> dict[str, Tensor]:
    first = prior.sample("first", (2, 3), init=init)
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    return {"first": first, "second": scale * prior.sample("second", (4,))}


def test_stock_trace_sees_only_the_sites_inside() -> None:
    trace = poutine.trace(model).get_trace(ThreeLayer(support=Independent(0.5)))
    assert trace.stochastic_nodes == [
        "first_support",
        "first_precision",
        "first",
        "scale",
        "second_support",
        "second_precision",
        "second",
    ]
    assert trace.nodes["first"]["value"].shape == (2, 3)
    assert {node["type"] for node in trace.nodes.values()} == {"args", "sample", "return"}


def test_stock_condition_and_replay_work_inside() -> None:
    weight = torch.ones(2, 3)
    conditioned = poutine.condition(model, data={"first": weight})
    assert conditioned(Normal())["first"] is weight
    trace = poutine.trace(model).get_trace(Normal())
    again = poutine.replay(model, trace=trace)(Normal())
    assert again["first"] is trace.nodes["first"]["value"]


def test_discovery_lists_every_weight_in_order_and_draws_none() -> None:
    prior, init = Forbidden(), torch.zeros(2, 3)
    found = discover_weights(model, prior, init=init)
    assert list(found) == ["first", "second"]
    assert found["first"].init is init
    assert found["second"].init is None
    assert all(site.prior is prior for site in found.values())
    assert [site.shape for site in found.values()] == [(2, 3), (4,)]


def test_discovery_is_invisible_to_outer_handlers() -> None:
    trace = poutine.trace(lambda: discover_weights(model, Normal())).get_trace()
    assert trace.stochastic_nodes == ["scale"]


def test_substituted_weights_reach_the_model_and_the_rest_is_sampled() -> None:
    weight = torch.randn(2, 3, requires_grad=True)
    with SubstituteWeights({"first": weight}), poutine.trace() as trace:
        result = model(Normal())
    assert result["first"] is weight
    assert trace.trace.stochastic_nodes == ["scale", "second"]
    with SubstituteWeights({"first": weight, "second": torch.ones(4)}):
        result = model(Forbidden())
    assert (result["second"] == result["second"][0]).all()


def test_substitution_ends_with_its_context() -> None:
    handler = SubstituteWeights({"first": torch.zeros(2, 3)})
    with handler:
        pass
    assert (model(Normal())["first"] != 0).all()


def test_init_gives_dtype_and_must_have_the_shape() -> None:
    assert Normal().sample("w", (3,), init=torch.zeros(3).double()).dtype == torch.float64
    assert Normal().sample("w", (3,)).dtype == torch.get_default_dtype()
    with pytest.raises(ShapeError) as error:
        Normal().sample("w", (3,), init=torch.zeros(3, 1))
    assert str(error.value) == (
        "init of weight site 'w' has another shape than the site; given: (3, 1); accepted: (3,)"
    )


def test_a_prior_states_what_engines_need_to_know() -> None:
    prior, w = Normal(), torch.ones(2)
    assert prior.weight("w", {"w": w, "other": -w}) is w
    assert prior.start("w", w) == {"w": w}
    assert prior.survivors("w", {}) is None
    assert prior.inference == INFERENCE


class Halves(NonCentred):
    """A weight that is the sum of two sites."""

    def pieces(self, name: str, shape: torch.Size, like: Tensor) -> dict[str, Tensor]:
        laws = {f"{name}_{i}": dist.Normal(like.new_zeros(shape), 1.0).to_event() for i in "ab"}
        return emit_each(laws)

    def weight(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        return values[f"{name}_a"] + values[f"{name}_b"]


def test_non_centred_weights_are_deterministic_sites() -> None:
    trace = poutine.trace(model).get_trace(Halves())
    assert trace.stochastic_nodes == ["first_a", "first_b", "scale", "second_a", "second_b"]
    nodes: Any = trace.nodes
    total = nodes["first_a"]["value"] + nodes["first_b"]["value"]
    assert torch.equal(nodes["first"]["value"], total)
    assert float(nodes["first"]["fn"].log_prob(total)) == 0.0
    assert list(discover_weights(model, Halves())) == ["first", "second"]
    weight = torch.randn(2, 3)
    with SubstituteWeights({"first": weight}), poutine.trace() as inner:
        assert model(Halves())["first"] is weight
    assert inner.trace.stochastic_nodes == ["scale", "second_a", "second_b"]


def test_two_weights_of_one_name() -> None:
    def twice() -> Any:
        return Normal().sample("w", (2,)), Normal().sample("w", (3,))

    with pytest.raises(InvalidArgumentError) as error:
        discover_weights(twice)
    assert str(error.value) == (
        "two weights of the model have the same name; given: w; accepted: one name per weight"
    )


@pytest.mark.parametrize(
    ("shape", "count"), [((), 1), ((7,), 7), ((5, 7), 7), ((5, 3, 2, 2), 12), ((5, 0), 1)]
)
def test_fan_in(shape: tuple[int, ...], count: int) -> None:
    assert fan_in(torch.Size(shape)) == count


def test_start_values_are_the_sites_own_or_scaled_noise() -> None:
    init = torch.randn(2, 3, requires_grad=True)
    own = start_value(WeightSite("w", init.shape, Normal(), init))
    assert torch.equal(own, init)
    assert own.data_ptr() != init.data_ptr()
    assert not own.requires_grad
    shape = torch.Size((200, 400))
    noise = start_value(WeightSite("w", shape, Normal(), None))
    # the standard error of a standard deviation over n draws is sd / sqrt(2 n)
    assert abs(float(noise.std()) * 20 - 1) < 5 / (2 * shape.numel()) ** 0.5
