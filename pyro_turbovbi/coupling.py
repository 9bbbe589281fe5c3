"""Which weights share a unit: the coupling groups of a network.

A unit is an input feature or channel, or an output of a linear or convolution layer. Its incoming
weights are a row of one layer's weight, its outgoing weights columns of the next one's; layers
whose outputs are added have their units in common. The groups are read off the network's traced
graph: units are followed through layers that treat each of them by itself (activations,
normalisation, pooling, dropout, flattening), and given up, never guessed, where something else
happens to them. Where they stay units but cannot change their places (a layer norm counts them, two
layers that have nothing else in common share a bias), they keep their group, which is fixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_turbovbi._unit_groups import INPUT, Group
from pyro_turbovbi._unit_reader import UnitReader
from pyro_turbovbi.kernels.seriation import seriate


@dataclass(frozen=True)
class Coupling:
    """The groups that a weight's rows and columns belong to.

    Attributes:
        rows: Name of the group of the units that the weight leads to; None: not in a group.
        columns: Name of the group of the units that it comes from; None likewise.
    """

    rows: str | None
    columns: str | None


@dataclass(frozen=True)
class Member:
    """A dim of a parameter or buffer that the units of a group run along.

    Attributes:
        name: Name of the parameter or buffer.
        dim: The dim.
        each: Number of adjacent entries per unit, such as the pixels of a channel.
    """

    name: str
    dim: int
    each: int = 1


@dataclass(frozen=True)
class Couplings:
    """All groups of a network.

    Attributes:
        sizes: Number of units by name of the group: ``"input"`` (``"input_1"`` ...) for features of
            the input, otherwise the name of the first weight that leads to the units.
        weights: Groups by name of the weight.
        members: By name of the group, everything that the units run along, so that a unit can be
            taken out or moved; groups that are fixed (a layer norm averages over them) are missing.
    """

    sizes: Mapping[str, int]
    weights: Mapping[str, Coupling]
    members: Mapping[str, tuple[Member, ...]]


def couplings(
    net: nn.Module, weights: Iterable[str], *, input_dims: int | None = None
) -> Couplings:
    """Find the groups of units that weights share.

    The outputs of the network are in no group, since it needs all of them; neither are groups of
    one unit.

    Args:
        net: The network; only traced, never run.
        weights: Names of the weights that are to be grouped, in the order of the net; others do
            not count.
        input_dims: Number of dims of a batch of inputs. Without it, what is known to come from
            linear layers alone is taken as [batch, features] where a batch norm follows.

    Returns:
        The groups that at least one of the weights belongs to.

    Raises:
        UnsupportedError: if the network's forward method cannot be traced.
    """
    reader = UnitReader(net, input_dims)
    reader.read()
    weights = list(weights)
    sides = [
        {name: group.root for name, group in side.items() if name in weights}
        for side in (reader.rows, reader.columns)
    ]
    found = {id(g): g for side in sides for g in side.values()}.values()
    kept = {g.name: g.size for g in found if not g.given_up and g.size is not None}
    sizes = {name: size for name, size in kept.items() if size > 1}

    def name_in(side: dict[str, Group], weight: str) -> str | None:
        group = side.get(weight)
        return group.name if group is not None and group.name in sizes else None

    coupled = {w: Coupling(name_in(sides[0], w), name_in(sides[1], w)) for w in weights}
    members = {
        g.name: tuple(Member(*along) for along in dict.fromkeys(g.members))
        for g in found
        if g.name in sizes and not g.fixed
    }
    return Couplings(sizes, coupled, members)


def unit_features(members: Iterable[Member], size: int, masks: Mapping[str, Tensor]) -> Tensor:
    """Which weights each unit of a group keeps.

    Args:
        members: What the units run along.
        size: Number of units.
        masks: Boolean masks by name; members without one do not count.

    Returns:
        Boolean, shape (units, weights in and out).
    """
    features = [torch.zeros(size, 0, dtype=torch.bool)]
    for member in members:
        if member.name in masks:
            along = masks[member.name].movedim(member.dim, 0).cpu()
            features.append(along.reshape(size, -1))
    return torch.cat(features, 1)


def entries(order: Tensor, member: Member) -> Tensor:
    """Indices along a member's dim that put its units in a new order."""
    within = torch.arange(member.each)
    return (order[:, None] * member.each + within).flatten()


def put_in_order(
    groups: Couplings,
    masks: Callable[[], Mapping[str, Tensor]],
    move: Callable[[tuple[Member, ...], Tensor], None],
) -> dict[str, Tensor]:
    """Make units with similar weights neighbours, one group of hidden units after the other.

    Args:
        groups: The units of a network.
        masks: Returns the present boolean masks by name: what was moved before counts.
        move: Takes what the units of a group run along and the numbers of the old units in their
            new order, and moves them.

    Returns:
        The new orders by name of the group, those that have changed.
    """
    orders: dict[str, Tensor] = {}
    for name, members in groups.members.items():
        if is_input(name):
            continue
        order = seriate(unit_features(members, groups.sizes[name], masks()))
        if not bool((order.diff() == 1).all()):
            orders[name] = order
            move(members, order)
    return orders


def is_input(group: str) -> bool:
    """Whether a group is one of features or channels of an input, by its name."""
    return re.fullmatch(rf"{INPUT}(_\d+)?", group) is not None


__all__ = [
    "INPUT",
    "Coupling",
    "Couplings",
    "Member",
    "couplings",
    "entries",
    "is_input",
    "put_in_order",
    "unit_features",
]
