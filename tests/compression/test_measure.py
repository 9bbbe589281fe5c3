"""Structure, operations and timing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pyro_turbovbi.compression import measure
from pyro_turbovbi.compression.chain import chain_of
from pyro_turbovbi.compression.measure import (
    MIN_ROUNDS,
    Structure,
    flops_of,
    latency_of,
    parameters_of,
    structure_of,
    timings_of,
)
from tests.compression.graph_nets import CASES, Case


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
    outputs = conv(torch.zeros(1, 2, 15)).numel()
    counted = sum(2 for _ in range(outputs) for _ in range(2 * 4))
    assert flops_of(conv, torch.zeros(3, 2, 15)) == counted


@pytest.mark.parametrize("case", CASES, ids=str)
def test_flops_equal_those_that_torch_counts(case: Case) -> None:
    net = case.net(0).eval()
    # It does not count the fused attention of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(case.inputs()[:1])
    assert flops_of(net, case.inputs()) == counter.get_total_flops()


def test_flops_of_transposed_and_grouped_convolutions() -> None:
    net = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    assert flops_of(net, torch.zeros(1, 4, 5, 5)) == 2 * 25 * 4 * 3 * 9


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


def test_latency_is_the_median_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, 9.0, 1.0, 5.0, 2.0, 6.0, 30.0, 7.0] * 50)  # the first two warm up
    monkeypatch.setattr(measure, "_timed", lambda net, inputs: next(seconds))
    monkeypatch.setattr(measure, "MAX_ROUNDS", 3)
    nets = nn.ReLU(), nn.ReLU()
    assert timings_of(nets, torch.zeros(1)) == [[1.0, 2.0, 30.0], [5.0, 6.0, 7.0]]
    assert latency_of(nets, torch.zeros(1)) == [2.0, 6.0]
