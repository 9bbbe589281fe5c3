"""Where the entries come from that an operation copies to other places."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_turbovbi.compression.graph_tape import Op, Tape
from pyro_turbovbi.compression.graph_vocabulary import COPIES, VIEWS


def sources_of(op: Op, tape: Tape) -> list[Tensor]:
    """The sources of all entries that a move makes.

    The move is applied to the numbers of the places themselves.

    Args:
        op: A move.
        tape: The tape that it is on.

    Returns:
        For every output a tensor of its shape: the place in the first input, flattened, that each
            entry comes from.
    """
    first, *rest = op.inputs
    shape = tape.values[first].shape
    places = torch.arange(shape.numel()).reshape(shape)
    if op.kind in COPIES:
        return [places]
    if op.kind in VIEWS:  # the original may have been laid out in memory differently
        return [places.reshape(tape.values[op.output].shape)]
    return op.call([places, *(tape.values[n].cpu() for n in rest)])


def varies_along(coordinates: Tensor, dim: int) -> bool:
    """Whether coordinates change along a dim.

    Args:
        coordinates: Any shape without empty dims.
        dim: The dim.

    Returns:
        Whether they do.
    """
    return bool((coordinates != coordinates.narrow(dim, 0, 1)).any())


def sources_along(coordinates: Tensor, dim: int) -> list[set[int]]:
    """The places that every place along a dim of the result is made of.

    Args:
        coordinates: For every entry that the move makes, the place along a dim of its input.
        dim: A dim of the result.

    Returns:
        For every place along it, the places of its entries.
    """
    return [
        set(row.unique().tolist()) for row in coordinates.movedim(dim, 0).unsqueeze(-1).flatten(1)
    ]


def in_order(coordinates: Tensor, size: int) -> bool:
    """Whether a move keeps all places of a dim in their order.

    Args:
        coordinates: For every entry that the move makes, the place along the dim.
        size: Number of places along the dim.

    Returns:
        Whether one dim of the result is that dim.
    """
    varying = [d for d in range(coordinates.ndim) if varies_along(coordinates, d)]
    if len(varying) != 1 or coordinates.shape[varying[0]] != size:
        return False
    along = coordinates.movedim(varying[0], 0).unsqueeze(-1).flatten(1)[:, 0]
    return bool((along == torch.arange(size)).all())


__all__ = ["in_order", "sources_along", "sources_of", "varies_along"]
