"""Lifted nets as trees: rebuilt alone, filled into an instance, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError
from pyro_turbovbi.persistence.container import pack, unpack
from pyro_turbovbi.persistence.networks import dump_bayesian_net, restore_bayesian_net
from pyro_turbovbi.priors.selection import BySite


class Residual(nn.Module):
    """A net of no listed class, with tied weights and a state that is no tensor."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.outer.weight = self.inner.weight
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.outer(torch.relu(self.inner(x)))
        return out

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


def alone() -> nn.Module:
    """A net that rebuilds itself, with all that could be forgotten."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding="same"),
        nn.Sequential(nn.BatchNorm2d(2, momentum=None), nn.ReLU(inplace=True), nn.Dropout(0.125)),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    net[3].bias.requires_grad_(False)
    net[1][0].running_mean.add_(1.0)
    return net.double()


def round_trip(bnn: ptv.BayesianNet, net: nn.Module | None = None) -> ptv.BayesianNet:
    return restore_bayesian_net(unpack("net", pack("net", dump_bayesian_net(bnn))), net)


def lifted(net: nn.Module, prior: Any = None, likelihood: Any = None) -> ptv.BayesianNet:
    prior = prior or priors.Normal(0.3)
    return ptv.lift(net, likelihood=likelihood or likelihoods.Categorical(), prior=prior)


def assert_same(first: ptv.BayesianNet, second: ptv.BayesianNet) -> None:
    states = first.state_dict(), second.state_dict()
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        if isinstance(value, Tensor):
            assert value.dtype == states[1][name].dtype
            assert torch.equal(value, states[1][name])
        else:
            assert value == states[1][name]
    assert list(first.points) == list(second.points)
    assert [p.requires_grad for p in first.parameters()] == [
        p.requires_grad for p in second.parameters()
    ]
    assert first.prior == second.prior
    assert {n: s.prior for n, s in first.sites.items()} == {
        n: s.prior for n, s in second.sites.items()
    }
    assert repr(first) == repr(second)
    assert second.num_data == first.num_data
    assert not any(module.training for module in second.modules())


def test_a_sequential_rebuilds_itself() -> None:
    bnn = lifted(alone())
    bnn.num_data = 77
    random_state = torch.get_rng_state()
    again = round_trip(bnn)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert_same(bnn, again)
    assert again.net[1][2].p == 0.125  # type: ignore[index, union-attr]
    x = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    assert torch.equal(bnn.eval().output({}, x), again.output({}, x))


@pytest.mark.parametrize(
    "net",
    [nn.Linear(3, 2), nn.Sequential(), nn.Sequential(nn.Sequential(), nn.Linear(3, 2))],
    ids=["layer", "empty", "nested"],
)
def test_small_nets_rebuild_themselves(net: nn.Module) -> None:
    bnn = lifted(net, priors.by_site({}))
    assert_same(bnn, round_trip(bnn))


def test_any_other_net_is_filled_into_an_instance() -> None:
    net = Residual()
    net.calls = 3
    bnn, other = lifted(net), Residual().double().train()
    before = {name: value.clone() for name, value in other.named_parameters()}
    with pytest.raises(InvalidArgumentError, match=r"test_networks\.Residual; accepted: Fit\.load"):
        round_trip(bnn)
    again = round_trip(bnn, other)
    assert_same(bnn, again)
    assert again.net.inner.weight is again.net.outer.weight  # type: ignore[union-attr]
    assert again.net.calls == 3
    assert other.calls == 0, "the given one is not touched"
    assert all(torch.equal(value, before[name]) for name, value in other.named_parameters())


def test_an_instance_is_also_taken_where_none_is_needed() -> None:
    bnn = lifted(alone())
    assert_same(bnn, round_trip(bnn, alone()))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Residual(5), r"'inner.weight': \(5, 5\); accepted: 'inner.weight': \(4, 4\)"),
        (nn.Linear(4, 4), r"Linear with '\w+(\.\w+)?': .*none"),
    ],
)
def test_an_instance_that_does_not_fit_is_refused(net: nn.Module, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        round_trip(lifted(Residual()), net)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(3, 3), nn.Hardtanh(), nn.Conv1d(4, 4, 1, groups=2)),
        nn.Sequential(*[nn.Linear(3, 3)] * 2),
        nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 3)),
    ],
    ids=["groups", "tied", "no statistics"],
)
def test_what_would_not_be_rebuilt_exactly_needs_an_instance(net: nn.Module) -> None:
    bnn = lifted(net)
    with pytest.raises(InvalidArgumentError, match="whose class it cannot bring along"):
        round_trip(bnn)
    assert_same(bnn, round_trip(bnn, net))


@pytest.mark.parametrize(
    "likelihood",
    [
        likelihoods.Categorical(),
        likelihoods.Bernoulli(),
        likelihoods.Poisson(),
        likelihoods.Gaussian(0.3),
        likelihoods.Gaussian(0.7, learn=False),
        likelihoods.Gaussian(heteroscedastic=True),
    ],
    ids=repr,
)
def test_likelihoods_come_back(likelihood: likelihoods.Likelihood) -> None:
    for parameter in likelihood.parameters():
        parameter.data += 1e-3
    bnn = lifted(nn.Linear(3, 2), likelihood=likelihood)
    again = round_trip(bnn)
    assert_same(bnn, again)
    assert type(again.likelihood) is type(likelihood)
    output = torch.randn(4, 2)
    assert torch.equal(bnn.likelihood.mean(output), again.likelihood.mean(output))


PRIORS: list[priors.Prior | BySite] = [
    priors.by_site({"*.bias": None, "0.*": priors.Laplace(0.2)}, priors.Horseshoe()),
    priors.ThreeLayer(supports.Blocks((2, 2), supports.Grid(0.2, mean_run=(2.0, 3.0)))),
    priors.ThreeLayer(supports.Gated((0.5, 3.0), (0.4, 2.0)), scale="rms"),
    priors.ThreeLayer(active=dist.Gamma(1.0, 1 / 3), collapse="support"),
    priors.ThreeLayer(gates="shared", gate_density=0.3),
]


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_priors_come_back(prior: priors.Prior | BySite) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    bnn = lifted(net, prior)
    assert_same(bnn, round_trip(bnn))


def test_a_prior_keeps_the_unit_that_it_took_from_the_start_weights() -> None:
    bnn = lifted(nn.Linear(4, 3), priors.ThreeLayer(scale="rms"))
    with torch.no_grad():
        bnn.net.weight.mul_(3.0)
    assert_same(bnn, round_trip(bnn))


@dataclass(frozen=True)
class Own(priors.Normal):
    """A prior from outside the package."""


@dataclass(frozen=True)
class Support:
    """A support prior from outside the package."""

    def distribution(self, shape: torch.Size) -> Any:
        return supports.Independent(0.3).distribution(shape)


class Counts(likelihoods.Poisson):
    """A likelihood from outside the package."""


@pytest.mark.parametrize(
    ("bnn", "what"),
    [
        (lifted(nn.Linear(3, 2), Own(0.1)), "prior"),
        (lifted(nn.Linear(3, 2), priors.ThreeLayer(Support())), "prior"),  # type: ignore[arg-type]
        (lifted(nn.Linear(3, 2), likelihood=Counts()), "likelihood"),
    ],
    ids=["prior", "support", "likelihood"],
)
def test_classes_from_outside_are_refused(bnn: ptv.BayesianNet, what: str) -> None:
    with pytest.raises(UnsupportedError, match=f"the {what} cannot be stored; given: .*; accepted"):
        dump_bayesian_net(bnn)
