"""Gates of units: a layer of the prior that the weights of several sites share.

A unit has one gate, open or closed. A weight can only be active where the gates of both its units,
the one that it leads to (its row) and the one that it comes from (its column), are open. So a
prior under shared gates is a joint Pyro program over sites: first the gates, then the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import effectful
from torch import Tensor

from pyro_turbovbi.distributions import IndependentSupport
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError

#: Even odds: a unit's weights carry tens to hundreds of nats, a gate's prior a few.
GATE_DENSITY = 0.5


@dataclass(frozen=True, eq=False)
class Gates:
    """The gates of a group of units.

    Attributes:
        name: Name of the group; the Pyro site is ``{name}_gate``.
        size: Number of units.
        density: Prior probability of an open gate.
        open: Zeros and ones `[size]`, as drawn; None where no value is known.
    """

    name: str
    size: int
    density: float = GATE_DENSITY
    open: Tensor | None = None

    @property
    def site(self) -> str:
        """Name of the Pyro site."""
        return f"{self.name}_gate"

    def distribution(self) -> IndependentSupport:
        """Law of the gates: independent, each open with probability `density`."""
        return IndependentSupport([self.size], self.density)


@dataclass(frozen=True, eq=False)
class WeightGates:
    """The gates on both sides of a weight.

    Attributes:
        rows: Gates of the units that the weight leads to (its first dim); None: always open.
        columns: Gates of the units that it comes from (its second dim, in which each unit may
            stand for several adjacent columns, such as the pixels of a channel); None likewise.
    """

    rows: Gates | None = None
    columns: Gates | None = None

    def view(self, shape: torch.Size) -> torch.Size:
        """The weight's shape as `[rows, columns, each]`, `each` elements a pair of units.

        Raises:
            ShapeError: if the weight does not fit the groups.
        """
        rest = shape[1:].numel()
        columns = (shape[1] if len(shape) > 1 else 1) if self.columns is None else self.columns.size
        fits = len(shape) > 1 and rest % columns == 0
        if not fits or (self.rows is not None and self.rows.size != shape[0]):
            raise ShapeError(
                "a weight does not fit the gates of its units",
                given=f"shape {tuple(shape)}, {self.rows}, {self.columns}",
                accepted="a gate for every row, and as many columns for each of the columns' gates",
            )
        return torch.Size((shape[0], columns, rest // columns))

    def both(self, shape: torch.Size, values: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """Products of the values of both gates of every element, in a weight's shape.

        Args:
            shape: Shape of the weight.
            values: Values in [0, 1] by name of the group, such as draws or probabilities; one where
                a group is missing.
            like: Tensor that gives the device and dtype.
        """
        rows, columns, each = self.view(shape)
        row, column = (
            like.new_ones(n) if gates is None or gates.name not in values else values[gates.name]
            for gates, n in ((self.rows, rows), (self.columns, columns))
        )
        product = row.to(like)[:, None] * column.to(like)
        return product.unsqueeze(-1).expand(rows, columns, each).reshape(shape)

    def open(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Zeros and ones of a weight's shape: one where both gates are open, as drawn."""
        sides = (gates for gates in (self.rows, self.columns) if gates is not None)
        drawn = {gates.name: gates.open for gates in sides if gates.open is not None}
        return self.both(shape, drawn, like)


def unit_gates(
    name: str, size: int, *, density: float = GATE_DENSITY, like: Tensor | None = None
) -> Gates:
    """Emit the gates of a group of units, for a Pyro model written by hand.

    Args:
        name: Name of the group; the Pyro site is ``{name}_gate``.
        size: Number of units.
        density: Prior probability of an open gate, in (0, 1).
        like: Tensor that gives the device and dtype. Default: torch's.

    Returns:
        The gates, to be handed to ``prior.sample(..., rows=gates)`` and ``columns=gates`` of all
        weights of these units, whose prior is a ``ThreeLayer(..., gates="shared")``.

    Raises:
        InvalidArgumentError: if `density` or `size` is out of range.
    """
    if not 0.0 < density < 1.0 or size < 1:
        raise InvalidArgumentError(
            "gates are out of range",
            given=f"density={density!r}, size={size!r}",
            accepted="a density in (0, 1) and at least one unit",
        )
    like = torch.empty(()) if like is None else like
    return _gates(Gates(name, size, density), like, name=name)  # type: ignore[no-any-return]


def emit_gates(gates: Gates, like: Tensor) -> Gates:
    """Run ``pyro.sample`` for the gates; return them with their values."""
    return replace(gates, open=pyro.sample(gates.site, gates.distribution()).to(like))


# An effect of its own type, as for weights: engines that substitute weights skip the gates.
_gates: Any = effectful(emit_gates, type="gates")

__all__ = ["GATE_DENSITY", "Gates", "WeightGates", "emit_gates", "unit_gates"]
