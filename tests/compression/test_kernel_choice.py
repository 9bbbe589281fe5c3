"""Which kernel is chosen, by clocks that do not measure."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pyro_turbovbi.compression import kernel_choice
from pyro_turbovbi.compression.inference_layers import SparseLinear
from pyro_turbovbi.compression.kernel_choice import KernelChoice, beats, choose, fastest
from pyro_turbovbi.compression.layers import InputSelect
from tests.compression.test_inference_layers import linear_of
from tests.compression.timers import clock, kernel_of


def of_blocks() -> nn.Linear:
    """A layer whose weights lie in four blocks of 16 x 16 along the diagonal."""
    linear = nn.Linear(64, 64)
    linear.weight.data *= torch.eye(4).repeat_interleave(16, 0).repeat_interleave(16, 1)
    return linear


ALL = ("transposed", "csr", "bsr 4x4", "bsr 8x8", "bsr 16x16")


@pytest.mark.parametrize("favourite", ALL)
def test_the_fastest_is_chosen(favourite: str) -> None:
    linear, x = of_blocks(), torch.randn(5, 64)
    timer = clock(**{favourite.replace(" ", "_"): 0.5})
    layer, choice = choose(linear, x, timer=timer)
    assert layer is not None
    assert kernel_of(layer) == choice.kernel == favourite
    assert choice.reason == "2.0 times as fast as dense"
    assert choice.seconds == dict.fromkeys(("dense", *ALL), 1.0) | {favourite: 0.5}
    assert choice.skipped == {}
    torch.testing.assert_close(layer(x), linear(x))


def test_dense_stays_unless_another_is_faster_beyond_noise() -> None:
    linear, x = of_blocks(), torch.randn(5, 64)
    for timer in (clock(), clock(csr=0.91), clock(csr=2.0)):
        layer, choice = choose(linear, x, timer=timer)
        assert layer is None
        assert choice.kernel == "dense"


def test_a_further_kernel_must_beat_the_simpler_one() -> None:
    x = torch.randn(5, 64)
    _, choice = choose(of_blocks(), x, timer=clock(transposed=0.5, csr=0.46, bsr_8x8=0.44))
    assert choice.kernel == "bsr 8x8"
    _, choice = choose(of_blocks(), x, timer=clock(transposed=0.5, csr=0.46, bsr_8x8=0.46))
    assert choice.kernel == "transposed"


def test_beats_needs_the_median_and_three_rounds_of_four() -> None:
    assert beats([0.8, 0.8, 0.8, 5.0], [1.0] * 4)
    assert not beats([0.8, 0.8, 5.0, 5.0], [1.0] * 4)
    assert not beats([0.8] * 5 + [1.0] * 3, [1.0] * 8)  # a median of 0.8, but five of eight
    assert not beats([0.95] * 4, [1.0] * 4)
    assert beats([0.95] * 4, [1.0] * 4, margin=0.0)
    assert not beats([1.0] * 4, [1.0] * 4, margin=0.0)


def test_noise_does_not_decide() -> None:
    """Equal kernels on a machine that is now and then much slower: the simplest one stays."""
    generator = torch.Generator().manual_seed(0)

    def rounds() -> list[float]:
        jitter = 1.0 + 0.05 * torch.randn(50, generator=generator)
        busy = 1.0 + 4.0 * (torch.rand(50, generator=generator) < 0.2)
        return (jitter * busy).tolist()

    chosen = {fastest({name: rounds() for name in ("dense", *ALL)}) for _ in range(200)}
    assert chosen == {"dense"}
    faster = [0.7 * seconds for seconds in rounds()]
    assert fastest({"dense": rounds(), "csr": faster}) == "csr"


@pytest.mark.parametrize(
    ("density", "tried"),
    [(1.0, {"dense", "transposed"}), (0.3, {"dense", "transposed", "csr"})],
)
def test_sparse_formats_are_tried_where_they_store_less(density: float, tried: set[str]) -> None:
    linear = linear_of(64, 64, density, dead=0.0)
    _, choice = choose(linear, torch.randn(2, 64), timer=clock())
    assert choice.seconds.keys() == tried


def test_the_layer_in_front_is_part_of_every_candidate() -> None:
    select = InputSelect.of(torch.arange(80) % 5 != 0)
    linear, x = of_blocks(), torch.randn(4, 80)
    seen: list[nn.Module] = []

    def timer(modules: Sequence[nn.Module], inputs: Tensor) -> list[list[float]]:
        assert inputs is x
        seen.extend(modules)
        return clock(csr=0.5)(modules, inputs)

    layer, _ = choose(linear, x, select=select, timer=timer)
    assert layer in seen
    for module in seen:
        torch.testing.assert_close(module(x), linear(select(x)))


def test_what_raises_is_skipped_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(linear: nn.Linear, select: InputSelect | None) -> SparseLinear:
        raise NotImplementedError("not in this build\nat line 5")

    monkeypatch.setitem(kernel_choice._KERNELS, "csr", broken)
    _, choice = choose(of_blocks(), torch.randn(2, 64), timer=clock(csr=0.1))
    assert choice.kernel == "dense"
    assert choice.skipped == {"csr": "not in this build"}
    assert "csr" not in choice.seconds


def test_what_computes_something_else_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(linear: nn.Linear, select: InputSelect | None) -> SparseLinear:
        layer = SparseLinear(linear, select=select)
        layer.values *= 1.001
        return layer

    monkeypatch.setitem(kernel_choice._KERNELS, "csr", wrong)
    _, choice = choose(of_blocks(), torch.randn(2, 64), timer=clock(csr=0.1))
    assert choice.kernel == "dense"
    assert choice.skipped["csr"].startswith("deviates by ")


def test_nothing_else_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_choice, "_KERNELS", {})
    layer, choice = choose(of_blocks(), torch.randn(2, 64), timer=clock())
    assert layer is None
    assert choice == KernelChoice("dense", "no other kernel can be used")
    assert str(choice) == "dense (no other kernel can be used)"


def test_choices_are_json_and_a_line() -> None:
    _, choice = choose(of_blocks(), torch.randn(2, 64), timer=clock(csr=25e-6, dense=100e-6))
    assert json.loads(json.dumps(choice.to_dict()))["kernel"] == "csr"
    assert str(choice).startswith("csr (40000.0 times as fast as dense): dense 1000000 us, ")
    rejected = choice.rejected("the reason")
    assert (rejected.kernel, rejected.reason) == ("dense", "the reason")
    assert rejected.seconds == choice.seconds
    assert rejected.rejected("another") is rejected


@pytest.mark.parametrize("batch", [1, 256])
def test_measured_times_decide_by_default(batch: int) -> None:
    linear = of_blocks()
    layer, choice = choose(linear, torch.randn(batch, 64))
    assert choice.kernel in choice.seconds
    assert all(seconds > 0 for seconds in choice.seconds.values())
    assert (layer is None) == (choice.kernel == "dense")
