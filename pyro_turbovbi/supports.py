"""Declarative support priors; `.distribution(shape)` makes the Pyro distribution.

A specification knows no shape, so one fits all weights of a net. It is a frozen value: comparable,
printable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pyro_turbovbi.distributions import (
    IndependentSupport,
    MarkovChainSupport,
    MarkovGridSupport,
    SupportDistribution,
)
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.kernels import ChainLaw

Number = float | int


@runtime_checkable
class Support(Protocol):
    """Anything that makes a support distribution for a weight of a given shape."""

    def distribution(self, shape: Sequence[int]) -> SupportDistribution:
        """The support distribution of a weight.

        Args:
            shape: Shape of the weight.

        Returns:
            A distribution with that event shape.
        """
        ...


@dataclass(frozen=True)
class Independent:
    """Every weight active with the same probability, independently.

    Attributes:
        density: Prior probability of an active weight, inside (0, 1).

    Raises:
        InvalidArgumentError: If the density is outside (0, 1).
    """

    density: Number = 0.05

    def __post_init__(self) -> None:
        _check_probability("density", self.density)

    def distribution(self, shape: Sequence[int]) -> IndependentSupport:
        """The support distribution of a weight.

        Args:
            shape: Shape of the weight.

        Returns:
            A distribution with that event shape.

        Raises:
            ShapeError: If the shape has no elements.
        """
        return IndependentSupport(shape, self.density)


@dataclass(frozen=True)
class Chain:
    """A stationary binary Markov chain along one dim, independent over the others.

    Attributes:
        density: Stationary probability of an active weight, inside (0, 1).
        mean_run: Mean length of a run of active weights, at least
            `max(1, density / (1 - density))`; the value `1 / (1 - density)` means no coupling.
        dim: The dim along which the chains run; None is the last dim of the matrix view (out,
            everything else).

    Raises:
        InvalidArgumentError: If the density is outside (0, 1) or no chain of that density has that
            mean run.
    """

    density: Number = 0.05
    mean_run: Number = 5.0
    dim: int | None = None

    def __post_init__(self) -> None:
        _check_probability("density", self.density)
        _check_mean_run("mean_run", self.mean_run, self.density)
        if self.dim is not None and (isinstance(self.dim, bool) or not isinstance(self.dim, int)):
            raise InvalidArgumentError(
                "dim is no dim of a tensor", given=self.dim, accepted="an integer or None"
            )

    @classmethod
    def from_transitions(cls, p01: Number, p10: Number, dim: int | None = None) -> Chain:
        """The same prior from its transition probabilities.

        Args:
            p01: Probability of an active weight after an inactive one, inside (0, 1).
            p10: Probability of an inactive weight after an active one, inside (0, 1).
            dim: The dim along which the chains run; None is the last dim of the matrix view.

        Returns:
            A chain with `density = p01 / (p01 + p10)` and `mean_run = 1 / p10`.

        Raises:
            InvalidArgumentError: If a transition probability is outside (0, 1).
        """
        _check_probability("p01", p01)
        _check_probability("p10", p10)
        return cls(density=p01 / (p01 + p10), mean_run=1.0 / p10, dim=dim)

    @property
    def law(self) -> ChainLaw:
        """Transition probabilities `p01`, `p10`."""
        return ChainLaw.stationary(self.density, self.mean_run)

    def distribution(self, shape: Sequence[int]) -> MarkovChainSupport:
        """The support distribution of a weight.

        Args:
            shape: Shape of the weight.

        Returns:
            A distribution with that event shape.

        Raises:
            ShapeError: If the shape has no such dim or no elements.
        """
        p01, p10 = self.law
        return MarkovChainSupport(shape, min(p01, 1.0), p10, dim=self.dim)


@dataclass(frozen=True)
class Grid:
    """A chain along every row and every column of the matrix view, with one stationary density.

    Both couplings add up: what long runs in both directions do to the prior is told at
    `distributions.MarkovGridSupport`.

    Attributes:
        density: Stationary probability of an active weight, inside (0, 1).
        mean_run: Mean run lengths along rows and along columns; one number stands for both.
        sweeps: Row and column passes of a posterior.
        damping: Weight of the previous column message in each update, in [0, 1).
        tolerance: Stop when no message changes by more than this many nats in a sweep; 0 runs all
            sweeps.

    Raises:
        InvalidArgumentError: If a value is out of range or no chain of that density has such a mean
            run.
    """

    density: Number = 0.05
    mean_run: Number | Sequence[Number] = (5.0, 5.0)
    sweeps: int = 2
    damping: Number = 0.0
    tolerance: Number = 0.0

    def __post_init__(self) -> None:
        _check_probability("density", self.density)
        runs = _run_pair(self.mean_run)
        for name, run in zip(("along rows", "along columns"), runs, strict=True):
            _check_mean_run(f"mean_run {name}", run, self.density)
        object.__setattr__(self, "mean_run", runs)
        self._check_schedule()

    def distribution(self, shape: Sequence[int]) -> MarkovGridSupport:
        """The support distribution of a weight.

        Args:
            shape: Shape of the weight; more than two dims are viewed as (out, everything else).

        Returns:
            A distribution with that event shape.

        Raises:
            ShapeError: If the shape has fewer than two dims or no elements.
        """
        row, column = _run_pair(self.mean_run)
        return MarkovGridSupport(
            shape,
            self.density,
            (row, column),
            sweeps=self.sweeps,
            damping=float(self.damping),
            tolerance=float(self.tolerance),
        )

    def _check_schedule(self) -> None:
        if isinstance(self.sweeps, bool) or not isinstance(self.sweeps, int) or self.sweeps < 1:
            raise InvalidArgumentError(
                "sweeps is no number of passes", given=self.sweeps, accepted="an integer >= 1"
            )
        for name, low, high in (("damping", 0.0, 1.0), ("tolerance", 0.0, float("inf"))):
            value = getattr(self, name)
            if not _is_number(value) or not low <= value < high:
                raise InvalidArgumentError(
                    f"{name} is out of range",
                    given=value,
                    accepted=f"a number in [{low:g}, {high:g})",
                )


def _run_pair(runs: Number | Sequence[Number]) -> tuple[float, float]:
    """Mean runs along rows and along columns from one number or a pair."""
    pair = (runs, runs) if isinstance(runs, int | float) else tuple(runs)
    if len(pair) != 2 or not all(map(_is_number, pair)):
        raise InvalidArgumentError(
            "mean_run of a grid is not understood",
            given=runs,
            accepted="a number, or a pair (along rows, along columns)",
        )
    return float(pair[0]), float(pair[1])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_probability(name: str, value: Number) -> None:
    if not _is_number(value) or not 0.0 < value < 1.0:
        raise InvalidArgumentError(
            f"{name} is no probability strictly between 0 and 1",
            given=value,
            accepted="a number in (0, 1), e.g. 0.05",
        )


def _check_mean_run(name: str, value: Number, density: Number) -> None:
    smallest = max(1.0, density / (1.0 - density))
    # from_transitions goes through density and back: allow for its rounding
    if not _is_number(value) or not smallest * (1.0 - 1e-12) <= value < float("inf"):
        raise InvalidArgumentError(
            f"no chain of density {density:g} has this {name}",
            given=value,
            accepted=f"a number of at least {smallest:.6g}, the smallest possible mean run; "
            f"{1.0 / (1.0 - density):.6g} means no coupling",
        )
