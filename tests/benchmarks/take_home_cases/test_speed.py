"""Times are medians of turns; what is timed computes what it should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.take_home_cases import int8, speed
from pyro_turbovbi.compression import compress
from tests.benchmarks.frontier_cases import tiny


class Clock:
    """A clock that networks put forward."""

    def __init__(self) -> None:
        self.now = 0.0

    def thread_time(self) -> float:
        return self.now


class Slow(nn.Module):
    """Takes the times of a list, one after another, again and again."""

    def __init__(self, clock: Clock, *seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds, self.calls = clock, seconds, 0

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds[self.calls % len(self.seconds)]
        self.calls += 1
        return x


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def test_medians_of_turns(clock: Clock) -> None:
    even, spiked = Slow(clock, 1 / 1024), Slow(clock, 1 / 512, 1 / 512, 1 / 512, 1 / 512, 1 / 4)
    found = speed.medians({"even": even, "spiked": spiked}, torch.zeros(1))
    assert found == {"even": 1 / 1024, "spiked": 1 / 512}
    assert even.calls == spiked.calls


def test_turns_end_by_number_or_by_time(clock: Clock) -> None:
    quick, slow = Slow(clock, 2.0**-20), Slow(clock, 2.0)
    speed.medians({"": quick}, torch.zeros(1))
    speed.medians({"": slow}, torch.zeros(1))
    warm = 1
    assert quick.calls == warm + speed.MOST_ROUNDS
    assert slow.calls == warm + speed.LEAST_ROUNDS


def test_onnx_runtime_computes_the_same_for_any_batch() -> None:
    net, x = tiny.build().eval(), torch.rand(9, 10)
    onnx = speed.OnnxNetwork(net, x)
    for batch in (x, x[:1], x[:5]):
        torch.testing.assert_close(onnx(batch), net(batch))


def test_every_runtime_is_timed_against_the_dense_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MOST_ROUNDS", 3)
    monkeypatch.setattr(speed, "OnnxNetwork", lambda net, example: net)
    monkeypatch.setattr(speed, "BATCHES", (1, 4))
    monkeypatch.setattr(int8, "available", lambda: False)
    net, x = tiny.build().eval(), torch.rand(12, 10)
    masks = {n: torch.rand_like(p) < 0.5 for n, p in net.named_parameters() if p.dim() > 1}
    small = compress(net, masks, x, measure_latency=False)
    found = speed.speed_of(small, speed.in_runtimes(net, x), x)
    assert list(found["seconds"]) == ["1", "4"]
    for seconds in found["seconds"].values():
        assert set(seconds) == {
            "dense, torch", "dense, onnxruntime", "dense, torch, accelerated",
            "torch", "onnxruntime", "torch, accelerated",
        }  # fmt: skip
        assert all(value > 0 for value in seconds.values())
    assert {len(kernels) for kernels in found["kernels"].values()} == {4}, (
        "three layers, and the layout of images"
    )
