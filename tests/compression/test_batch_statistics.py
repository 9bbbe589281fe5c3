"""Batch statistics of a whole data set against the definition and against torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.batch_statistics import batch_norms, with_statistics_of
from tests.compression.nets import randomise


def inputs_of(norm: nn.Module, net: nn.Module, x: Tensor) -> Tensor:
    """What a batch norm sees of all data at once: channels by everything else."""
    seen: list[Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        net(x)
    handle.remove()
    return seen[0].transpose(0, 1).flatten(1)


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.BatchNorm2d(3, affine=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.BatchNorm1d(5),
    )


@pytest.mark.parametrize("points", [40, 2500])  # one chunk, and three of unequal sizes
def test_every_norm_has_the_statistics_of_its_inputs_over_all_data(points: int) -> None:
    net = randomise(conv_net(), 0).double()
    x = 3.0 + torch.randn(points, 2, 6, 6).double()
    result = with_statistics_of(net, x)
    for norm in batch_norms(result):
        seen = inputs_of(norm, result, x)
        torch.testing.assert_close(norm.running_mean, seen.mean(1), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(norm.running_var, seen.var(1), rtol=1e-6, atol=1e-6)
    assert not result.training


def test_a_single_norm_agrees_with_torchs_average_over_the_full_batch() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None))
    x = torch.randn(1500, 3)
    net.train()(x)
    expected = net[1].state_dict()
    actual = with_statistics_of(randomise_statistics(net), x)[1].state_dict()
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-5, atol=1e-6)


def randomise_statistics(net: nn.Module) -> nn.Module:
    for norm in batch_norms(net):
        norm.running_mean = torch.randn(norm.num_features)
        norm.running_var = torch.rand(norm.num_features) + 0.5
    return net


def test_a_far_mean_costs_no_digits() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2))
    x = 1e6 + torch.randn(3000, 2).double()
    norm = with_statistics_of(net.double(), x)[0]
    torch.testing.assert_close(norm.running_var, x.var(0), rtol=1e-9, atol=0.0)


def test_the_network_and_what_does_not_concern_it_stay_as_they_were() -> None:
    net = nn.Sequential(
        nn.Dropout(0.9), nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)
    )
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(20, 3) + 1.0
    state = torch.get_rng_state()
    result = with_statistics_of(net, x)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert len(batch_norms(net)) == 1
    torch.testing.assert_close(result[1].running_mean, x.mean(0))
    assert not result[1]._forward_pre_hooks


def test_a_norm_that_is_not_used_or_sees_one_value_keeps_its_statistics() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    net = randomise_statistics(Unused())
    result = with_statistics_of(net, torch.randn(1, 2))
    assert torch.equal(result.used.running_var, net.used.running_var)
    assert torch.equal(result.unused.running_mean, net.unused.running_mean)
    other = with_statistics_of(net, torch.randn(5, 2))
    assert torch.equal(other.unused.running_mean, net.unused.running_mean)
    assert not torch.equal(other.used.running_mean, net.used.running_mean)
