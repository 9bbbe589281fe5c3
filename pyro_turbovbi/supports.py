"""Declarative support priors; `.distribution(shape)` makes the Pyro distribution.

A specification knows no shape, so one fits all weights of a net. It is a frozen value: comparable,
printable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pyro_turbovbi.distributions import (
    BlockSupport,
    GatedMarkovSupport,
    IndependentSupport,
    MarkovChainSupport,
    MarkovGridSupport,
    SupportDistribution,
)
from pyro_turbovbi.distributions.block import block_shape
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
        if self.dim is not None:
            _check_dim("dim", self.dim)

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
        p01, p10 = _transitions(float(self.density), float(self.mean_run))
        return MarkovChainSupport(shape, p01, p10, dim=self.dim)


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
        dims: The two dims of a weight along which columns and rows run, such as (0, 1) for output
            and input channels of a conv weight; elements that differ in further dims belong to
            independent grids. None is the matrix view (out, everything else).

    Raises:
        InvalidArgumentError: If a value is out of range or no chain of that density has such a mean
            run.
    """

    density: Number = 0.05
    mean_run: Number | Sequence[Number] = (5.0, 5.0)
    sweeps: int = 2
    damping: Number = 0.0
    tolerance: Number = 0.0
    dims: Sequence[int] | None = None

    def __post_init__(self) -> None:
        _check_probability("density", self.density)
        runs = _run_pair(self.mean_run)
        for name, run in zip(("along rows", "along columns"), runs, strict=True):
            _check_mean_run(f"mean_run {name}", run, self.density)
        object.__setattr__(self, "mean_run", runs)
        if self.dims is not None:
            object.__setattr__(self, "dims", _dim_pair(self.dims))
        self._check_schedule()

    def distribution(self, shape: Sequence[int]) -> MarkovGridSupport:
        """The support distribution of a weight.

        Args:
            shape: Shape of the weight; more than two dims are viewed as (out, everything else).

        Returns:
            A distribution with that event shape.

        Raises:
            ShapeError: If the shape has fewer than two dims, no such dims or no elements.
        """
        row, column = _run_pair(self.mean_run)
        return MarkovGridSupport(
            shape,
            self.density,
            (row, column),
            sweeps=self.sweeps,
            damping=float(self.damping),
            tolerance=float(self.tolerance),
            dims=None if self.dims is None else _dim_pair(self.dims),
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


@dataclass(frozen=True)
class Gated:
    """A chain of gates; elements behind a closed gate are inactive, behind an open one a chain.

    With `gate_dim=0` there is a gate per output unit, with `gate_dim=1` one per input: whether a
    whole neuron is needed is a variable of the model.

    Attributes:
        gate: Stationary probability of an open gate and mean run of open gates.
        within: Stationary probability of an active weight behind an open gate and mean run of
            active weights.
        gate_dim: The dim of a weight along which the gates run.
        dim: The dim along which the weights' chains run; weights that differ in further dims belong
            to different chains behind the same gate. None is the last of the other dims, and for
            `gate_dim=0` all of them as one (the matrix view of a conv weight).

    Raises:
        InvalidArgumentError: If a density is outside (0, 1), no chain of that density has that mean
            run, or both dims are the same.
    """

    gate: Sequence[Number] = (0.5, 2.0)
    within: Sequence[Number] = (0.1, 5.0)
    gate_dim: int = 0
    dim: int | None = None

    def __post_init__(self) -> None:
        for name in ("gate", "within"):
            object.__setattr__(self, name, _law_pair(name, getattr(self, name)))
        _check_dim("gate_dim", self.gate_dim)
        if self.dim is not None:
            _check_dim("dim", self.dim)

    def distribution(self, shape: Sequence[int]) -> GatedMarkovSupport:
        """The support distribution of a weight.

        Args:
            shape: Shape of the weight.

        Returns:
            A distribution with that event shape.

        Raises:
            ShapeError: If the shape has no two such dims or no elements.
        """
        gate, within = (_transitions(*_law_pair("", pair)) for pair in (self.gate, self.within))
        return GatedMarkovSupport(shape, gate, within, self.gate_dim, self.dim)


@dataclass(frozen=True)
class Blocks:
    """One variable per block of the matrix view, the blocks under any other support prior.

    Every small weight of an active block pays for being active: blocks keep more weights than
    single elements do.

    Attributes:
        size: Rows and columns of a block; blocks at the far edges are smaller.
        support: The prior of the blocks.

    Raises:
        InvalidArgumentError: If the size is no pair of integers above 0 or the prior makes no
            support distributions.
    """

    size: Sequence[int] = (4, 4)
    support: Support = field(default_factory=Chain)

    def __post_init__(self) -> None:
        size = _items(self.size)
        if len(size) != 2 or not all(_is_integer(n) and n >= 1 for n in size):
            raise InvalidArgumentError(
                "size is no size of a block", given=self.size, accepted="two integers >= 1"
            )
        object.__setattr__(self, "size", size)
        if not isinstance(self.support, Support):
            raise InvalidArgumentError(
                "the blocks need a support prior",
                given=self.support,
                accepted="e.g. supports.Chain(), supports.Grid()",
            )

    def distribution(self, shape: Sequence[int]) -> BlockSupport:
        """The support distribution of a weight.

        Args:
            shape: Shape of the weight; more than two dims are viewed as (out, everything else).

        Returns:
            A distribution with that event shape.

        Raises:
            ShapeError: If the shape has fewer than two dims or no elements.
        """
        height, width = self.size
        blocks = self.support.distribution(block_shape(shape, (height, width)))
        return BlockSupport(shape, (height, width), blocks)


def _law_pair(name: str, pair: Sequence[Number]) -> tuple[float, float]:
    """A density and the mean run of a chain of that density."""
    if len(_items(pair)) != 2 or not all(map(_is_number, pair)):
        raise InvalidArgumentError(
            f"{name} is not understood", given=pair, accepted="a pair (density, mean run)"
        )
    density, mean_run = (float(number) for number in pair)
    _check_probability(f"the density of {name}", density)
    _check_mean_run(f"mean run of {name}", mean_run, density)
    return density, mean_run


def _transitions(density: float, mean_run: float) -> tuple[float, float]:
    """Transition probabilities of a chain; rounding must not lift one above 1."""
    p01, p10 = ChainLaw.stationary(density, mean_run)
    return min(p01, 1.0), p10


def _dim_pair(dims: Sequence[int]) -> tuple[int, int]:
    """Dims of columns and of rows."""
    pair = _items(dims)
    if len(pair) != 2 or not all(map(_is_integer, pair)):
        raise InvalidArgumentError(
            "dims of a grid are not understood",
            given=dims,
            accepted="None or a pair (dim of the columns, dim of the rows)",
        )
    return pair[0], pair[1]


def _run_pair(runs: Number | Sequence[Number]) -> tuple[float, float]:
    """Mean runs along rows and along columns from one number or a pair."""
    pair = (runs, runs) if isinstance(runs, int | float) else _items(runs)
    if len(pair) != 2 or not all(map(_is_number, pair)):
        raise InvalidArgumentError(
            "mean_run of a grid is not understood",
            given=runs,
            accepted="a number, or a pair (along rows, along columns)",
        )
    return float(pair[0]), float(pair[1])


def _items(value: object) -> tuple[Any, ...]:
    """What a sequence holds; nothing if it is none, which is no pair either."""
    return tuple(value) if isinstance(value, Sequence) else ()


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_dim(name: str, value: object) -> None:
    if not _is_integer(value):
        raise InvalidArgumentError(
            f"{name} is no dim of a tensor", given=value, accepted="an integer, or None for dim"
        )


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
