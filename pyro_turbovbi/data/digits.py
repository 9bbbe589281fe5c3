"""The 8x8 handwritten digits that come with scikit-learn: no download."""

from __future__ import annotations

import torch

from pyro_turbovbi.data._optional import optional
from pyro_turbovbi.data.splits import Splits, TensorPair, hold_out

_TEST_POINTS = 360
_VALIDATION_POINTS = 180
_LARGEST_PIXEL = 16.0


def digits(seed: int = 0) -> Splits:
    """Loads scikit-learn's digits: 1,797 images of 8x8 pixels, ten classes.

    Args:
        seed: Seed of the division into 1,257 training, 180 validation and 360 test points.

    Returns:
        Inputs `[points, 64]` (float32, pixels scaled to [0, 1]) and labels `[points]` (int64).

    Raises:
        UnsupportedError: If scikit-learn is not installed.
    """
    problem = "digits need scikit-learn, which is not installed"
    raw = optional("sklearn.datasets", problem, "demo").load_digits()
    everything = TensorPair(
        torch.as_tensor(raw.data, dtype=torch.float32) / _LARGEST_PIXEL,
        torch.as_tensor(raw.target, dtype=torch.int64),
    )
    rest, test = hold_out(everything, _TEST_POINTS, seed)
    train, validation = hold_out(rest, _VALIDATION_POINTS, seed)
    return Splits(train, validation, test, classes=tuple(map(str, range(10))))
