"""Whether a convolutional network is faster with its images laid out pixel by pixel in memory.

`channels_last` keeps all channels of a pixel together. Pooling and convolutions over few channels,
which is what cutting leaves, can be several times faster that way; which layout wins depends on the
sizes, the batch and the machine, so it is measured.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

CHANNELS_LAST = "channels last"
CONTIGUOUS = "contiguous"


class ChannelsLast(nn.Module):
    """A network whose images lie in memory pixel by pixel; the same outputs up to rounding.

    Args:
        net: A network for images; it is not touched.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = _converted(net)

    def forward(self, images: Tensor) -> Tensor:
        """The outputs.

        Args:
            images: Shape (batch, channels, height, width), in any layout.
        """
        out: Tensor = self.net(channels_last(images))
        return out


def channels_last(images: Tensor) -> Tensor:
    """The same images, pixel by pixel.

    With a single channel both layouts are the same memory. Its strides then decide which one torch
    takes it for, so they are written out; nothing is copied.

    Args:
        images: Shape (batch, channels, height, width).
    """
    images = images.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = images.shape
    if channels > 1:
        return images
    return images.as_strided(images.shape, (height * width, 1, width, 1))


def has_images(net: nn.Module, inputs: Tensor) -> bool:
    """Whether there is anything to lay out otherwise.

    Args:
        net: A network.
        inputs: Its inputs.
    """
    return inputs.ndim == 4 and any(isinstance(m, nn.Conv2d) for m in net.modules())


def _converted(net: nn.Module) -> nn.Module:
    new = copy.deepcopy(net)
    for module in new.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)
    return new


__all__ = ["CHANNELS_LAST", "CONTIGUOUS", "ChannelsLast", "channels_last", "has_images"]
