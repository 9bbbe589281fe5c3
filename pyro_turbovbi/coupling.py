"""Which weights share a unit: the coupling groups of a network.

A unit is an input feature or channel, or an output of a linear or convolution layer. Its incoming
weights are a row of one layer's weight, its outgoing weights columns of the next one's; layers
whose outputs are added have their units in common. The groups are read off the network's traced
graph: units are followed through layers that treat each of them by itself (activations,
normalisation, pooling, dropout, flattening), and given up, never guessed, where something else
happens to them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.kernels.seriation import seriate

#: Input features and channels, as a group's name.
INPUT = "input"

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_MIXING_NORMS = (nn.GroupNorm, nn.LayerNorm)
_UNIT_WISE_MODULES: tuple[type[nn.Module], ...] = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm,
    nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid,
)  # fmt: skip
_UNIT_WISE_CALLS: frozenset[Any] = frozenset({
    torch.relu, torch.tanh, torch.sigmoid, torch.dropout,
    F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.gelu, F.silu, F.mish, F.tanh, F.sigmoid,
    F.softplus, F.hardtanh, F.hardswish, F.dropout, F.dropout2d,
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
    F.adaptive_max_pool1d, F.adaptive_max_pool2d,
    "relu", "relu_", "tanh", "sigmoid", "contiguous", "clone", "clamp",
})  # fmt: skip
_FLATTENINGS: frozenset[Any] = frozenset({torch.flatten, "flatten", "view", "reshape"})
_POSITION_AVERAGES: frozenset[Any] = frozenset({torch.mean, torch.amax, "mean", "amax"})
_SUMS: frozenset[Any] = frozenset({torch.add, operator.add, operator.iadd, "add", "add_"})
_SIZE_QUERIES: frozenset[Any] = frozenset({getattr, "size", "dim"})


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
            taken out; groups from which none can be taken (a layer norm averages over them) are
            missing.
    """

    sizes: Mapping[str, int]
    weights: Mapping[str, Coupling]
    members: Mapping[str, tuple[Member, ...]]


def couplings(net: nn.Module, weights: Iterable[str]) -> Couplings:
    """Find the groups of units that weights share.

    The outputs of the network are in no group, since it needs all of them; neither are groups of
    one unit.

    Args:
        net: The network; only traced, never run.
        weights: Names of the weights that are to be grouped, in the order of the net; others do
            not count.

    Returns:
        The groups that at least one of the weights belongs to.

    Raises:
        UnsupportedError: if the network's forward method cannot be traced.
    """
    reader = _Reader(net)
    reader.read()
    return reader.result(list(weights))


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
        if name.startswith(INPUT):
            continue
        order = seriate(unit_features(members, groups.sizes[name], masks()))
        if not bool((order.diff() == 1).all()):
            orders[name] = order
            move(members, order)
    return orders


class _Group:
    """Units in the making; groups that turn out to be the same are merged into one."""

    def __init__(self, name: str, size: int | None) -> None:
        self.name, self.size, self.given_up = name, size, False
        self.fixed = False
        self.members: list[Member] = []
        self._merged: _Group | None = None

    @property
    def root(self) -> _Group:
        return self if self._merged is None else self._merged.root

    def merge(self, other: _Group) -> None:
        ours, theirs = self.root, other.root
        if ours is theirs:
            return
        ours.given_up |= theirs.given_up or ours.size != theirs.size
        ours.fixed |= theirs.fixed
        ours.members += theirs.members
        theirs._merged = ours


@dataclass(frozen=True)
class _Units:
    """What is known of a value in the graph: its units and how they lie in memory.

    Attributes:
        group: The units.
        channels: Whether they are channels in front of positions, as a convolution makes them.
        flat: Whether the positions have been flattened behind them.
    """

    group: _Group
    channels: bool
    flat: bool = False


class _Reader:
    def __init__(self, net: nn.Module) -> None:
        self.net = net if list(net.children()) else nn.Sequential(net)
        self.names = {id(parameter): name for name, parameter in net.named_parameters()}
        self.units: dict[fx.Node, _Units | None] = {}
        self.rows: dict[str, _Group] = {}
        self.columns: dict[str, _Group] = {}
        self.inputs: list[_Group] = []

    def read(self) -> None:
        for node in _graph(self.net).nodes:
            self.units[node] = self._units_of(node)

    def result(self, weights: list[str]) -> Couplings:
        sides = [
            {name: group.root for name, group in side.items() if name in weights}
            for side in (self.rows, self.columns)
        ]
        found = {id(g): g for side in sides for g in side.values()}.values()
        kept = {g.name: g.size for g in found if not g.given_up and g.size is not None}
        sizes = {name: size for name, size in kept.items() if size > 1}

        def name_in(side: dict[str, _Group], weight: str) -> str | None:
            group = side.get(weight)
            return group.name if group is not None and group.name in sizes else None

        coupled = {w: Coupling(name_in(sides[0], w), name_in(sides[1], w)) for w in weights}
        members = {
            g.name: tuple(dict.fromkeys(g.members))
            for g in found
            if g.name in sizes and not g.fixed
        }
        return Couplings(sizes, coupled, members)

    def _units_of(self, node: fx.Node) -> _Units | None:
        if node.op == "placeholder":
            return self._input()
        if node.op == "call_module":
            module = self.net.get_submodule(str(node.target))
            return self._through_module(node, module)
        if node.op in ("call_function", "call_method"):
            return self._through_call(node)
        self._give_up(node)  # the output, or something unknown
        return None

    def _input(self) -> _Units:
        name = INPUT if not self.inputs else f"{INPUT}_{len(self.inputs)}"
        self.inputs.append(_Group(name, None))
        return _Units(self.inputs[-1], channels=False)

    def _through_module(self, node: fx.Node, module: nn.Module) -> _Units | None:
        source = self._source(node)
        if isinstance(module, nn.Linear):
            return self._linear(source, module)
        if isinstance(module, _CONVOLUTIONS):
            return self._convolution(source, module)
        if isinstance(module, nn.Flatten) and source is not None:
            return _Units(source.group, source.channels, flat=True)
        if isinstance(module, _UNIT_WISE_MODULES):
            if source is not None:
                self._note_members(source, module, str(node.target))
            return source
        self._give_up(node)
        return None

    def _through_call(self, node: fx.Node) -> _Units | None:
        source = self._source(node)
        if node.target in _UNIT_WISE_CALLS:
            return source
        if node.target in _FLATTENINGS and source is not None:
            return _Units(source.group, source.channels, flat=True)
        if node.target in _POSITION_AVERAGES and source is not None and _over_positions(node):
            return _Units(source.group, source.channels, flat=True)
        if node.target in _SUMS:
            return self._sum(node)
        if node.target not in _SIZE_QUERIES:
            self._give_up(node)
        return None

    def _note_members(self, source: _Units, module: nn.Module, path: str) -> None:
        """Note parameters and buffers of a normalisation or activation, one entry a unit."""
        group = source.group.root
        if isinstance(module, _MIXING_NORMS) or (
            isinstance(module, nn.PReLU) and module.num_parameters > 1 and source.flat
        ):
            group.fixed = True
            return
        one_each = isinstance(module, _BATCH_NORMS) or (
            isinstance(module, nn.PReLU) and module.num_parameters > 1
        )
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if one_each and tensor.ndim == 1:
                group.members.append(self._member(f"{path}.{name}", tensor, group))

    def _member(self, name: str, tensor: Any, group: _Group) -> Member:
        size = group.size or tensor.shape[0]
        return Member(self.names.get(id(tensor), name), 0, max(1, tensor.shape[0] // size))

    def _linear(self, source: _Units | None, layer: nn.Linear) -> _Units:
        columns = self._columns(source, layer.in_features, of_channels=False)
        return self._layer(layer, columns, layer.out_features, channels=False)

    def _convolution(self, source: _Units | None, layer: Any) -> _Units:
        columns = None
        if layer.groups == 1:
            columns = self._columns(source, layer.in_channels, of_channels=True)
        elif source is not None and layer.groups == layer.in_channels == layer.out_channels:
            # depthwise: a channel stays itself, and its filter is a row of its own
            self._size(source.group, layer.in_channels)
            self.rows[self.names[id(layer.weight)]] = source.group
            # its setting `groups` counts the channels, so that none can be taken out
            source.group.root.fixed = True
            return source
        elif source is not None:
            source.group.root.given_up = True
        return self._layer(layer, columns, layer.out_channels, channels=True)

    def _columns(self, source: _Units | None, size: int, *, of_channels: bool) -> _Group | None:
        """The group of a layer's inputs, if they are the source's units, each one or more times."""
        if source is None:
            return None
        group = source.group.root
        if group in self.inputs:
            self._size(group, size)
            return group
        assert group.size is not None
        in_order = source.channels == of_channels or (source.channels and source.flat)
        repeated = size % group.size == 0 and (source.channels and source.flat)
        if not in_order or not (size == group.size or repeated):
            group.given_up = True
            return None
        return group

    def _layer(self, layer: nn.Module, columns: _Group | None, size: int, **kind: bool) -> _Units:
        weight = self.names[id(layer.weight)]
        if columns is not None:
            _join(self.columns, weight, columns)
            width = layer.get_parameter("weight").shape[1]
            columns.members.append(Member(weight, 1, width // (columns.size or width)))
        rows = _Group(weight, size)
        rows.members += self._row_members(layer)
        _join(self.rows, weight, rows)
        return _Units(rows, **kind)

    def _row_members(self, layer: nn.Module) -> list[Member]:
        return [Member(self.names[id(p)], 0) for p in layer.parameters(recurse=False)]

    def _size(self, group: _Group, size: int) -> None:
        """Note the size of an input group at its first use; a second use must agree."""
        root = group.root
        if root.size is None:
            root.size = size
        elif root.size != size:
            root.given_up = True

    def _sum(self, node: fx.Node) -> _Units | None:
        terms = [self.units[source] for source in node.all_input_nodes]
        known = [term for term in terms if term is not None]
        if len(known) < len(terms) or len({(t.channels, t.flat) for t in known}) > 1:
            self._give_up(node)
            return None
        for term in known[1:]:
            known[0].group.merge(term.group)
        return known[0]

    def _source(self, node: fx.Node) -> _Units | None:
        first = node.args[0] if node.args else None
        if len(node.all_input_nodes) > 1 and node.target not in _SUMS | _FLATTENINGS:
            self._give_up(node)
            return None
        return self.units.get(first) if isinstance(first, fx.Node) else None

    def _give_up(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            units = self.units.get(source)
            if units is not None:
                units.group.root.given_up = True


def _over_positions(node: fx.Node) -> bool:
    """Whether a reduction leaves out the dims of batch and channels."""
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    listed = dims if isinstance(dims, (tuple, list)) else [dims]
    return all(isinstance(dim, int) and dim >= 2 for dim in listed)


def _join(side: dict[str, _Group], weight: str, group: _Group) -> None:
    """Note a weight's group; a weight that is used twice makes both groups one."""
    if weight in side:
        side[weight].merge(group)
    else:
        side[weight] = group


def _graph(net: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(net)
    except Exception as error:  # user code runs here: anything may come out
        raise UnsupportedError(
            f"the units of {type(net).__name__} cannot be found, since its forward method cannot "
            f"be traced: {error}",
            accepted="a forward method without control flow that depends on values, or a prior "
            "without shared gates: supports.Gated()",
        ) from error


__all__ = [
    "INPUT",
    "Coupling",
    "Couplings",
    "Member",
    "couplings",
    "entries",
    "put_in_order",
    "unit_features",
]
