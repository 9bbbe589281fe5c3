"""Images laid out pixel by pixel: the same outputs, taken only where measured to be faster."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.acceleration import accelerate
from pyro_turbovbi.compression.inference_layers import SparseLinear
from pyro_turbovbi.compression.kernel_choice import Timer
from pyro_turbovbi.compression.memory_layout import ChannelsLast, channels_last, has_images
from tests.compression.timers import clock


def convolutional(channels: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 5),
    ).eval()  # fmt: skip


def preferring(layout: type[nn.Module], **kernels: float) -> Timer:
    """A timer by which one layout takes half the time of the other."""

    def timer(modules: Sequence[nn.Module], inputs: Tensor) -> list[list[float]]:
        halves = [0.5 if isinstance(module, layout) else 1.0 for module in modules]
        rounds = clock(**kernels)(modules, inputs)
        return [[half * time for time in of] for half, of in zip(halves, rounds, strict=True)]

    return timer


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_numbers_in_another_order(channels: int) -> None:
    images = torch.randn(2, channels, 8, 8)
    other = channels_last(images)
    assert torch.equal(images, other)
    assert other.stride() == (64 * channels, 1, 8 * channels, channels)


def test_a_single_channel_is_not_copied() -> None:
    images = torch.randn(2, 1, 8, 8)
    assert channels_last(images).data_ptr() == images.data_ptr()


@pytest.mark.parametrize("channels", [1, 3])
def test_all_layers_work_pixel_by_pixel(channels: int) -> None:
    net, strides = convolutional(channels), []
    fast = ChannelsLast(net)
    for layer in fast.net:
        layer.register_forward_hook(lambda _m, _x, out: strides.append(out.stride()))
    images = torch.randn(2, channels, 8, 8)
    torch.testing.assert_close(fast(images), net(images))
    assert all(stride[1] == 1 for stride in strides if len(stride) == 4)


def test_the_faster_layout_is_taken_and_reported() -> None:
    net, images = convolutional(), torch.randn(6, 1, 8, 8)
    fast = accelerate(net, images, timer=preferring(ChannelsLast))
    assert isinstance(fast.module, ChannelsLast)
    assert fast.report.layout == "channels last"
    assert "images: channels last" in str(fast.report)
    torch.testing.assert_close(fast.module(images), net(images))
    slow = accelerate(net, images, timer=preferring(nn.Sequential))
    assert slow.report.layout == "contiguous"
    assert "images" not in str(slow.report)


def test_kernels_are_chosen_within_the_layout() -> None:
    net, images = convolutional(), torch.randn(6, 1, 8, 8)
    net[-1].weight.data[:, ::2] = 0.0
    fast = accelerate(net, images, timer=preferring(ChannelsLast, csr=0.5))
    assert fast.report.layers["7"].kernel == "csr"
    assert isinstance(fast.module, ChannelsLast)
    assert isinstance(fast.module.net, nn.Sequential)
    assert isinstance(fast.module.net[-1], SparseLinear)
    torch.testing.assert_close(fast.module(images), net(images))
    assert isinstance(net[-1], nn.Linear), "the network itself is not touched"


class Viewing(nn.Module):
    """Needs its images channel by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).view(len(x), -1)


def test_code_that_needs_the_other_layout_keeps_it() -> None:
    net, images = Viewing(), torch.randn(6, 1, 8, 8)
    fast = accelerate(net, images, timer=preferring(ChannelsLast))
    assert fast.report.layout == "contiguous"
    torch.testing.assert_close(fast.module(images), net(images))


def test_only_convolutional_networks_for_images_have_a_layout() -> None:
    assert has_images(convolutional(), torch.randn(2, 1, 8, 8))
    assert not has_images(nn.Flatten(), torch.randn(2, 1, 8, 8))
    assert not has_images(nn.Conv2d(1, 2, 3), torch.randn(1, 8, 8))
