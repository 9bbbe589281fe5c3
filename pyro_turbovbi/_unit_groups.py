"""Groups of units in the making, and values in a graph that units run along, see `coupling`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

#: Input features and channels, as a group's name.
INPUT = "input"
#: Along which dim of an input its units lie.
FRONT, LAST = "front", "last"


class Along(NamedTuple):
    """A dim of a parameter or buffer that units run along, see `coupling.Member`."""

    name: str
    dim: int
    each: int = 1


class Group:
    """Units in the making; groups that turn out to be the same are merged into one."""

    def __init__(self, name: str, size: int | None, *, is_input: bool = False) -> None:
        self.name, self.size, self.is_input = name, size, is_input
        self.given_up = self.fixed = False
        self.layout: str | None = None  # of an input: how its first reader takes it
        self.members: list[Along] = []
        self._merged: Group | None = None

    @property
    def root(self) -> Group:
        return self if self._merged is None else self._merged.root

    def merge(self, other: Group) -> None:
        ours, theirs = self.root, other.root
        if ours is theirs:
            return
        if theirs.is_input and not ours.is_input:
            ours, theirs = theirs, ours  # stays known as one: its order is not ours to change
        ours.given_up |= theirs.given_up or ours.size != theirs.size
        ours.fixed |= theirs.fixed
        ours.members += theirs.members
        if theirs.layout is not None:
            ours.take_as(theirs.layout)
        theirs._merged = ours

    def take_as(self, layout: str) -> None:
        """Note how an input is read; units along another dim are others, even if as many."""
        self.given_up |= self.layout not in (None, layout)
        self.layout = layout

    def take_size(self, size: int) -> None:
        """Note the size at the first use; a second use must agree."""
        self.given_up |= self.size not in (None, size)
        self.size = self.size or size

    def entries_each(self, count: int, *, flat: bool) -> int | None:
        """Adjacent entries per unit where there are so many in all; None: they do not fit."""
        size = self.size or count
        return count // size if count == size or (flat and count % size == 0) else None


@dataclass(frozen=True)
class Units:
    """What is known of a value in the graph: its units and how they lie in memory.

    The first dim is that of the batch. Either the units lie along dim 1 with positions behind it,
    or along the last dim.

    Attributes:
        group: The units.
        dims: Number of dims, if it is known.
        behind: Number of dims behind that of the units; None: an input's, not known yet.
        flat: Whether positions have been flattened into the dim of the units.
        reshaped: Of an input: the reshape, unless empty, behind which its units are others.
    """

    group: Group
    dims: int | None
    behind: int | None
    flat: bool = False
    reshaped: str = ""

    def read_along(self, layout: str) -> None:
        """Note along which dim an input's units are read."""
        self.group.root.take_as(self.reshaped + layout)

    def with_positions(self, positions: int) -> Units | None:
        """As what a layer takes that has channels with positions; None: it is something else."""
        if self.behind is None and self.dims in (None, positions + 2):
            self.read_along(FRONT)
            return replace(self, dims=positions + 2, behind=positions)
        return self if self.behind == positions else None

    def counts(self, dim: Any) -> bool:
        """Whether the size of a dim may depend on how many units there are."""
        if dim == 0:
            return False
        return not (isinstance(dim, int) and dim > 1 and self.behind)
