"""Chooses how a network is cut: as a chain of layers, or as a graph of any shape.

A chain of listed layers is rebuilt as a plain `Sequential` that a file can hold, and loses unread
input features too. Everything else keeps its class and forward method and gets narrower tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from pyro_turbovbi.compression.artifact import serialise
from pyro_turbovbi.compression.chain import chain_of
from pyro_turbovbi.compression.graph import GraphCut, cut_graph
from pyro_turbovbi.compression.measure import Structure, structure_of
from pyro_turbovbi.compression.shrink import Cut, cut_masked
from pyro_turbovbi.errors import ShapeError, UnsupportedError


def cut_any(pruned: nn.Module, example: Tensor, names: Mapping[str, Tensor]) -> Cut | GraphCut:
    """Cuts a network whose pruned weights are already zero.

    Args:
        pruned: Any network that torch can run on one input tensor; it is not touched.
        example: An input batch, shape (batch, ...).
        names: The masked parameters by their names (values are ignored).

    Returns:
        The cut chain, if the network is one and all masked parameters are part of it; otherwise the
            cut graph.

    Raises:
        ShapeError: If the network cannot be applied to the example.
        UnsupportedError: If what the network does cannot be recorded.
    """
    try:
        cut = cut_masked(pruned, example)
        cut.masks(names)
    except (ShapeError, UnsupportedError):
        return cut_graph(pruned, example)
    return cut


def structures(cut: Cut | GraphCut, net: nn.Module, example: Tensor) -> tuple[Structure, Structure]:
    """Units of a network before and after the cut.

    Args:
        cut: The cut network.
        net: The original network.
        example: An input batch.

    Returns:
        Of a chain the units of every layer, inputs first, without the outputs; of a graph the units
            of every coupling group, without inputs and outputs.
    """
    if isinstance(cut, GraphCut):
        return Structure(cut.units_dense), Structure(cut.units)
    return structure_of(chain_of(net, example)), structure_of(chain_of(cut.module, example))


def bytes_of(cut: Cut | GraphCut) -> int:
    """Bytes that the cut network takes in a file.

    Args:
        cut: The cut network.

    Returns:
        The size of the plain file, values exact.
    """
    return len(serialise(cut.module, surgery=cut.surgery if isinstance(cut, GraphCut) else None))


__all__ = ["bytes_of", "cut_any", "structures"]
