"""Random views of images: a small shift and a mirror image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from pyro_turbovbi.errors import InvalidArgumentError

PADDING = 4


def augment(
    x: Float[Tensor, "batch channels height width"], padding: int = PADDING, *, flip: bool = True
) -> Float[Tensor, "batch channels height width"]:
    """Crops every image at random out of its zero-padded self, and mirrors every second one.

    A batch transform for `TransformedTensors`. It draws from torch's generator of the images'
    device, so that the same seed gives the same views on the same kind of device.

    Args:
        x: Images, normalised so that 0 is the mean.
        padding: Largest shift, in pixels, in either direction.
        flip: Whether half of the images, at random, are mirrored left to right.

    Returns:
        New images of the same shape, dtype and device.

    Raises:
        InvalidArgumentError: If `padding` is negative.
    """
    if padding < 0:
        raise InvalidArgumentError("padding is out of range", given=padding, accepted="0, 1, ...")
    batch, _, height, width = x.shape
    shifts = torch.randint(2 * padding + 1, (2, batch, 1), device=x.device)
    rows = torch.arange(height, device=x.device) + shifts[0]
    columns = torch.arange(width, device=x.device).expand(batch, -1)
    if flip:
        mirrored = torch.rand(batch, 1, device=x.device) < 0.5
        columns = torch.where(mirrored, columns.flip(-1), columns)
    columns = columns + shifts[1]
    # One gather does it all: [batch, 1, 1, 1], [channels, 1, 1], [batch, 1, height, 1], ...
    which = torch.arange(batch, device=x.device).view(-1, 1, 1, 1)
    channels = torch.arange(x.shape[1], device=x.device).view(-1, 1, 1)
    padded = pad(x, (padding,) * 4)
    return padded[which, channels, rows[:, None, :, None], columns[:, None, None, :]]


__all__ = ["PADDING", "augment"]
