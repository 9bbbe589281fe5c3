"""Training, validation and test sets as plain tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError


class TensorPair(NamedTuple):
    """Inputs and targets of one set; the first axis of both runs over the points.

    Attributes:
        x: Inputs `[points, ...]`.
        y: Targets `[points]`.
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set; unpacks as `train, validation, test = splits`.

    Attributes:
        train: Points to fit.
        validation: Points to choose settings on.
        test: Points to report on, and nothing else.
        target_mean: Mean that was subtracted from the targets (0 if none was).
        target_scale: Standard deviation that the targets were divided by (1 if they were not). In
            the targets' own unit an RMSE is `rmse * target_scale`, a negative log-likelihood
            `nll + ln(target_scale)`.
        source: Which copy of the data this is, where there are several that differ; else empty.
    """

    train: TensorPair
    validation: TensorPair
    test: TensorPair
    target_mean: float = 0.0
    target_scale: float = 1.0
    source: str = ""

    def __iter__(self) -> Iterator[TensorPair]:
        """Iterates over the training, validation and test sets."""
        return iter((self.train, self.validation, self.test))


def hold_out(pair: TensorPair, points: int, seed: int) -> tuple[TensorPair, TensorPair]:
    """Takes points away at random, the same ones for the same seed.

    Args:
        pair: The set to divide.
        points: How many points to hold out.
        seed: Seed of the permutation; the global random state is not touched.

    Returns:
        What remains, and what was held out.

    Raises:
        InvalidArgumentError: If no point would remain, or `points` is negative.
    """
    total = len(pair.x)
    if not 0 <= points < total:
        raise InvalidArgumentError(
            "the number of held-out points leaves no training point",
            given=points,
            accepted=f"0 to {total - 1}",
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    rest, held = order[points:], order[:points]
    return TensorPair(pair.x[rest], pair.y[rest]), TensorPair(pair.x[held], pair.y[held])
