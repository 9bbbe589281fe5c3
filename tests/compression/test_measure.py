"""Structure, operations and timing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.chain import chain_of
from pyro_turbovbi.compression.measure import (
    MIN_ROUNDS,
    Structure,
    flops_of,
    latency_of,
    parameters_of,
    structure_of,
)


def test_structure_prints_with_dashes_and_is_a_tuple() -> None:
    structure = Structure((353, 95, 92))
    assert f"{structure}" == "353-95-92"
    assert structure == (353, 95, 92)


def test_structure_counts_flattened_features_only_if_there_are_several_positions() -> None:
    def structure(size: int) -> tuple[int, ...]:
        pixels = (size - 2) ** 2
        net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * pixels, 4))
        return structure_of(chain_of(net, torch.zeros(1, 2, size, size)))

    assert structure(5) == (2, 3, 27)
    assert structure(3) == (2, 3)


def test_flops_equal_the_multiplications_that_a_loop_counts() -> None:
    conv = nn.Conv1d(2, 3, 4, stride=2, padding=1, dilation=2)
    (link,) = chain_of(conv, torch.zeros(1, 2, 15))
    outputs = conv(torch.zeros(1, 2, 15)).numel()
    assert flops_of([link]) == sum(2 for _ in range(outputs) for _ in range(2 * 4))


def test_parameters_count_shared_ones_once() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert parameters_of(net) == 9 + 3 + 3


def test_networks_take_turns_and_do_not_see_each_others_changes() -> None:
    class Recorder(nn.Module):
        def __init__(self, name: str, calls: list[str]) -> None:
            super().__init__()
            self.name, self.calls = name, calls

        def forward(self, x: Tensor) -> Tensor:
            assert torch.is_inference_mode_enabled()
            assert bool((x == 1).all())
            self.calls.append(self.name)
            return x.zero_()

    calls: list[str] = []
    times = latency_of([Recorder("a", calls), Recorder("b", calls)], torch.ones(2, 3))
    assert len(times) == 2
    assert all(seconds > 0 for seconds in times)
    assert calls == ["a", "b"] * (len(calls) // 2)
    assert len(calls) >= 2 * (MIN_ROUNDS + 1)
