from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.data import augment
from pyro_turbovbi.errors import InvalidArgumentError
from tests.devices import DEVICES


def _images(batch: int = 64, height: int = 7, width: int = 5) -> Tensor:
    """No two values are equal and none is zero, so that a view tells where it comes from."""
    return 1.0 + torch.randperm(batch * 3 * height * width).view(batch, 3, height, width)


def _views(image: Tensor, padding: int, *, flip: bool) -> list[Tensor]:
    """All views of an image, cut out one by one."""
    height, width = image.shape[-2:]
    big = torch.zeros(3, height + 2 * padding, width + 2 * padding)
    big[:, padding : padding + height, padding : padding + width] = image
    cuts = [
        big[:, top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    ]
    return cuts + [cut.flip(-1) for cut in cuts if flip]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (2, False), (3, True)])
def test_every_view_is_a_crop_or_its_mirror_image(padding: int, flip: bool, device: str) -> None:
    x = _images()
    found = augment(x.to(device), padding, flip=flip)
    assert (found.shape, found.dtype, found.device.type) == (x.shape, x.dtype, device)
    for image, view in zip(x, found.cpu(), strict=True):
        assert any(torch.equal(view, known) for known in _views(image, padding, flip=flip))


def test_shifts_and_mirror_images_are_equally_likely() -> None:
    """25 shifts x 2 sides under 20,000 draws: chi-square with 49 degrees, 1e-6 quantile 111."""
    image, draws = _images(1), 20_000
    found = augment(image.expand(draws, -1, -1, -1), 2).flatten(1)
    counts = torch.stack(
        [(found == view.flatten()).all(1).sum() for view in _views(image[0], 2, flip=True)]
    )
    assert counts.sum() == draws
    expected = draws / len(counts)
    assert float(((counts - expected) ** 2 / expected).sum()) < 111.0


@pytest.mark.parametrize("device", DEVICES)
def test_the_seed_decides_and_the_input_stays(device: str) -> None:
    x = _images().to(device)
    before = x.clone()
    torch.manual_seed(3)
    first, second = augment(x), augment(x)
    torch.manual_seed(3)
    assert torch.equal(augment(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(x, before)


def test_without_padding_and_mirror_nothing_changes() -> None:
    x = _images()
    assert torch.equal(augment(x, 0, flip=False), x)


def test_a_negative_padding_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="padding is out of range; given: -1"):
        augment(_images(), -1)
