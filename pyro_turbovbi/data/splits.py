"""Training, validation and test sets as plain tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
        input_mean: What was subtracted from the inputs, in their own units; of a shape that
            broadcasts to one input `[...]`. None if nothing was.
        input_scale: What they were divided by after that; None if they were not.
        columns: Names of the columns of the inputs, in order; None if they have none.
        target: Name of what is to be predicted; empty if it has none.
        classes: Names of the classes, of which the label is the position; None if targets are no
            classes, or these have no names.
        pixels: Whether inputs are images `[channels, height, width]` of a loader that scales pixels
            to [0, 1], before `input_mean` and `input_scale`.
    """

    train: TensorPair
    validation: TensorPair
    test: TensorPair
    target_mean: float = 0.0
    target_scale: float = 1.0
    source: str = ""
    input_mean: Tensor | None = None
    input_scale: Tensor | None = None
    columns: tuple[str, ...] | None = None
    target: str = ""
    classes: tuple[str, ...] | None = None
    pixels: bool = False

    def __iter__(self) -> Iterator[TensorPair]:
        """Iterates over the training, validation and test sets."""
        return iter((self.train, self.validation, self.test))

    def standardised(self, *, targets: bool = True) -> Splits:
        """The same points with zero mean and unit variance in every column of the training inputs.

        Mean and standard deviation come from the training points alone and are applied to all three
        parts; a constant column keeps its scale.

        Args:
            targets: Whether the targets are standardised too.

        Returns:
            Inputs in single precision, and targets too if they were standardised. `input_mean`,
            `input_scale`, `target_mean` and `target_scale` lead from and to the units that the data
            had before anything was done to them.
        """
        centre, spread = _moments(self.train.x)
        mean, scale = _moments(self.train.y) if targets else (torch.zeros(()), torch.ones(()))

        def transform(pair: TensorPair) -> TensorPair:
            x = ((pair.x - centre) / spread).float()
            return TensorPair(x, ((pair.y - mean) / scale).float() if targets else pair.y)

        before = 0.0 if self.input_mean is None else self.input_mean
        unit = 1.0 if self.input_scale is None else self.input_scale
        return replace(
            self,
            train=transform(self.train),
            validation=transform(self.validation),
            test=transform(self.test),
            target_mean=self.target_mean + self.target_scale * float(mean),
            target_scale=self.target_scale * float(scale),
            input_mean=before + unit * centre,
            input_scale=unit * spread,
        )


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


def divide(
    pair: TensorPair, *, validation: float = 0.1, test: float = 0.1, seed: int = 0
) -> Splits:
    """Divides points at random into three parts.

    Args:
        pair: All points.
        validation: Fraction of them for the validation part, in [0, 1).
        test: Fraction of them for the test part, in [0, 1). A part whose fraction is not zero has
            at least one point.
        seed: Seed of the division; the global random state is not touched.

    Raises:
        InvalidArgumentError: If a fraction is out of range, or no training point is left.
    """
    for name, fraction in (("validation", validation), ("test", test)):
        if not 0.0 <= fraction < 1.0:
            raise InvalidArgumentError(
                f"the fraction of {name} points is out of range", given=fraction, accepted="[0, 1)"
            )
    points = [max(1, round(part * len(pair.x))) if part else 0 for part in (validation, test)]
    rest, held = hold_out(pair, sum(points), seed)
    return Splits(
        rest,
        TensorPair(held.x[: points[0]], held.y[: points[0]]),
        TensorPair(held.x[points[0] :], held.y[points[0] :]),
    )


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over points; a constant column keeps its scale."""
    constant = (values == values[0]).all(dim=0)
    mean, spread = values.mean(dim=0), values.std(dim=0, unbiased=False)
    if not bool((mean.isfinite() & spread.isfinite()).all()):  # sums of squares overflow first
        unit = torch.where(constant, 1.0, values.abs().amax(dim=0))
        scaled = values / unit
        mean, spread = scaled.mean(dim=0) * unit, scaled.std(dim=0, unbiased=False) * unit
    # Rounding gives many equal numbers another mean, and with it a spread.
    mean, spread = torch.where(constant, values[0], mean), torch.where(constant, 0.0, spread)
    return mean, torch.where(spread > 0, spread, torch.ones_like(spread))
