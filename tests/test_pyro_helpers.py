"""Param sites that are local to their model."""

from __future__ import annotations

import gc
import weakref

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_turbovbi._pyro import local_param


def test_a_param_site_without_the_global_store() -> None:
    parameter = nn.Parameter(torch.ones(2))
    with poutine.trace(param_only=True) as trace:
        value = local_param("p", parameter)
    torch.testing.assert_close(value, parameter)
    assert trace.trace.param_nodes == ["p"]
    assert trace.trace.nodes["p"]["value"].unconstrained() is parameter
    assert list(pyro.get_param_store().keys()) == []


def test_gradients_reach_the_parameter() -> None:
    parameter = nn.Parameter(torch.ones(2))
    local_param("p", parameter).square().sum().backward()
    assert torch.equal(parameter.grad, torch.full((2,), 2.0))  # type: ignore[arg-type]


def test_stock_svi_trains_it_and_equal_names_stay_apart() -> None:
    def train(parameter: nn.Parameter, target: float) -> None:
        def model() -> None:
            value: Tensor = local_param("p", parameter)
            pyro.factor("target", -(value - target).square().sum())

        svi = SVI(model, lambda: None, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        for _ in range(100):
            svi.step()

    first, second = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    train(first, 1.0)
    assert float(second.detach()) == 0.0
    train(second, -1.0)
    assert abs(float(first.detach()) - 1.0) < 0.1
    assert abs(float(second.detach()) + 1.0) < 0.1


def test_it_keeps_no_parameter_alive() -> None:
    parameter = nn.Parameter(torch.ones(2))
    local_param("p", parameter)
    gone = weakref.ref(parameter)
    gc.disable()  # without a cycle, counting references is enough
    try:
        del parameter
        assert gone() is None
    finally:
        gc.enable()


def test_the_site_says_its_constraint() -> None:
    with poutine.trace(param_only=True) as trace:
        local_param("p", nn.Parameter(torch.ones(2)))
    assert trace.trace.nodes["p"]["kwargs"]["constraint"] is constraints.real
