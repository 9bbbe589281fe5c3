"""Follows the units of a network through its traced graph, see `coupling`."""

from __future__ import annotations

import copy
import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyro_turbovbi import _unit_vocabulary as vocabulary
from pyro_turbovbi._unit_groups import INPUT, LAST, Along, Group, Units
from pyro_turbovbi.errors import UnsupportedError


class UnitReader:
    """Reads the groups of units off a network.

    Args:
        net: The network; only traced, never run.
        input_dims: Number of dims of a batch of inputs, if that is known.

    Attributes:
        rows: The groups of the units that weights lead to, by name of the weight.
        columns: The groups of the units that they come from, likewise.
    """

    def __init__(self, net: nn.Module, input_dims: int | None) -> None:
        self.net = net if list(net.children()) else nn.Sequential(net)
        self.graph, self.traced = _traced(self.net)
        self.input_dims = input_dims
        # Names as the net itself has them, not as the wrapped one would.
        self.names: dict[int, str] = {}
        self.shapes: dict[str, torch.Size] = {}
        for name, tensor in (*net.named_parameters(), *net.named_buffers()):
            self.names[id(tensor)], self.shapes[name] = name, tensor.shape
        self.units: dict[fx.Node, Units | None] = {}
        self.rows: dict[str, Group] = {}
        self.columns: dict[str, Group] = {}
        self.groups: list[Group] = []
        # Dims of parameters that something unknown reads as well, and whether all of them may be.
        self.foreign: set[tuple[str, int]] = set()
        self.all_foreign = False

    def read(self) -> None:
        """Go through the graph; afterwards, groups are what they are."""
        for node in self.graph.nodes:
            self.units[node] = self._units_of(node)
        self._settle()

    def _settle(self) -> None:
        """Give up or fix groups whose members belong to something else as well."""
        holders: dict[tuple[str, int], Group] = {}
        for group in {id(g.root): g.root for g in self.groups}.values():
            group.given_up |= self.all_foreign
            for member in group.members:
                key = (member.name, member.dim)
                group.given_up |= key in self.foreign
                other = holders.setdefault(key, group)
                size = self.shapes[member.name][member.dim]
                if other is not group or size != member.each * (group.size or 0):
                    other.fixed = group.fixed = True

    def _units_of(self, node: fx.Node) -> Units | None:
        if node.op == "placeholder":
            return self._input()
        if node.op == "get_attr":
            self._note_constant(operator.attrgetter(str(node.target))(self.traced))
        elif node.op == "call_module":
            return self._through_module(node, self.net.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method"):
            return self._through_call(node)
        else:
            self._give_up(node)  # the output, or something unknown
        return None

    def _input(self) -> Units:
        count = sum(group.is_input for group in self.groups)
        group = self._group(INPUT if not count else f"{INPUT}_{count}", None, is_input=True)
        return Units(group, self.input_dims, behind=None)

    def _group(self, name: str, size: int | None, *, is_input: bool = False) -> Group:
        self.groups.append(Group(name, size, is_input=is_input))
        return self.groups[-1]

    def _note_constant(self, value: Any) -> None:
        name = self.names.get(id(value))
        if name is not None:
            self._note_foreign(name)
        elif isinstance(value, Tensor) and value.requires_grad:
            self.all_foreign = True  # made of parameters, nobody knows which

    def _note_foreign(self, name: str) -> None:
        self.foreign.update((name, dim) for dim in range(len(self.shapes[name])))

    def _through_module(self, node: fx.Node, module: nn.Module) -> Units | None:
        source = self._source(node)
        known = not vocabulary.has_hooks(module)
        if known and type(module) is nn.Linear and self._owns(module.weight):
            return self._linear(source, module)
        if known and type(module) in vocabulary.CONVOLUTIONS and self._owns(module.weight):
            return self._convolution(source, module)
        if known and source is not None:
            through = self._through_plain_module(source, module)
            if through is not None:
                return through
        for tensor in (*module.parameters(), *module.buffers()):
            self._note_constant(tensor)
        self._give_up(node)
        return None

    def _through_plain_module(self, source: Units, module: nn.Module) -> Units | None:
        """Behind a layer that has no weight matrix; None: it is not known to keep units apart."""
        kind = type(module)
        if kind in vocabulary.UNIT_WISE:
            return source
        if kind in vocabulary.POOLS:
            return source.with_positions(vocabulary.POOLS[kind])
        if kind in vocabulary.MIXING_NORMS:
            source.group.root.fixed = True
            return source
        if isinstance(module, nn.Flatten):
            whole = vocabulary.is_whole(module.start_dim, module.end_dim, source.dims)
            return self._flattened(source, "flatten", whole=whole)
        if kind is nn.PReLU:
            if module.num_parameters != 1:
                self._note_members(source, module)
            return source
        if kind in vocabulary.BATCH_NORMS:
            return self._batch_normed(source, module)
        return None

    def _through_call(self, node: fx.Node) -> Units | None:
        if node.target in vocabulary.SUMS:
            return self._sum(node)
        asked = vocabulary.asked_sizes(node)
        if asked is not None:
            self._note_question(node, asked)
            return None
        through = None
        if node.target in vocabulary.RESHAPES:
            through = self._reshaped(node)
        elif (source := self._source(node)) is not None:
            through = self._through_plain_call(source, node)
        if through is None:
            self._give_up(node)
        return through

    def _through_plain_call(self, source: Units, node: fx.Node) -> Units | None:
        if node.target in vocabulary.UNIT_WISE:
            return source
        if node.target in vocabulary.POOLS:
            return source.with_positions(vocabulary.POOLS[node.target])
        if node.target in vocabulary.FLATTENINGS:
            whole = vocabulary.flattens_all(node, source.dims)
            return self._flattened(source, _call(node), whole=whole)
        if node.target in vocabulary.AVERAGES:
            return self._averaged(source, node)
        return None

    def _note_question(self, node: fx.Node, asked: list[Any]) -> None:
        """What depends on the number of units cannot do with fewer of them."""
        for source in node.all_input_nodes:
            units = self.units.get(source)
            if units is not None and any(map(units.counts, asked)):
                units.group.root.fixed = True

    def _reshaped(self, node: fx.Node) -> Units | None:
        value = node.args[0] if node.args else None
        source = self.units.get(value) if isinstance(value, fx.Node) else None
        if source is None:
            return None
        whole = vocabulary.flattens_all(node, source.dims)
        whole |= bool(source.behind) and self._must_flatten(node)
        return self._flattened(source, _call(node), whole=whole)

    def _must_flatten(self, node: fx.Node) -> bool:
        """Whether `view(-1, n)` can only leave one row a data point.

        It can if nothing behind it changes the number of rows again: the network gives one output
        for each data point.
        """
        nodes = list(self.graph.nodes)
        behind = nodes[nodes.index(node) + 1 :]
        return vocabulary.leaves_rows_open(node) and all(map(self._keeps_rows, behind))

    def _keeps_rows(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return type(self.net.get_submodule(str(node.target))) in vocabulary.KEEP_ROWS
        if node.target in vocabulary.FLATTENINGS:
            return vocabulary.flattens_all(node, None)
        return node.op == "output" or node.target in vocabulary.KEEP_ROWS

    def _flattened(self, source: Units, how: str, *, whole: bool) -> Units | None:
        """Behind a change of shape; whether it leaves but the dim of the batch."""
        group = source.group.root
        if not whole:
            return self._as_other_input(source, how)
        if source.reshaped:
            source.read_along(LAST)
        # Positions of an input are no features of it any more.
        group.fixed |= group.is_input and bool(source.behind)
        return replace(source, dims=2, behind=0, flat=source.flat or bool(source.behind))

    def _as_other_input(self, source: Units, how: str) -> Units | None:
        """An input in another shape has units, too, though not along a dim that it came with."""
        if source.behind is not None:
            return None
        source.group.root.fixed = True
        return replace(source, dims=None, reshaped=f"{source.reshaped}{how} ")

    def _averaged(self, source: Units, node: fx.Node) -> Units | None:
        """Behind a reduction that leaves the dims of batch and channels; None: it does not."""
        if source.behind is None and source.dims is None:
            return self._as_other_input(source, _call(node))
        dims = source.dims or 0
        behind = dims - 2 if source.behind is None else source.behind
        gone = vocabulary.averaged_dims(node, dims)
        if not behind or not gone or min(gone) < 2:
            return None
        source = source.with_positions(behind) or source
        left = 0 if vocabulary.keeps_dims(node) else len(gone)
        return replace(source, dims=dims - left, behind=behind - left)

    def _batch_normed(self, source: Units, module: nn.Module) -> Units | None:
        positions = vocabulary.BATCH_NORMS[type(module)]
        if positions == 1 and not source.behind:
            self._note_members(source, module)  # of features, or of channels that may be theirs
            return source
        placed = source.with_positions(positions)
        if placed is not None:
            self._note_members(placed, module)
        return placed

    def _note_members(self, source: Units, module: nn.Module) -> None:
        """Note parameters and buffers that have one entry for each place along dim 1."""
        group = source.group.root
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.ndim != 1:
                continue
            each = group.entries_each(len(tensor), flat=source.flat)
            along_units = source.behind != 0 or source.dims in (None, 2)
            if each is None or not along_units:
                group.fixed = True
                self._note_constant(tensor)
            else:
                group.members.append(Along(self.names[id(tensor)], 0, each))

    def _linear(self, source: Units | None, layer: nn.Linear) -> Units:
        columns = self._columns(source, layer.in_features, behind=0)
        dims = None if source is None else source.dims
        return self._layer(layer, columns, layer.out_features, dims=dims, behind=0)

    def _convolution(self, source: Units | None, layer: Any) -> Units:
        behind = vocabulary.CONVOLUTIONS[type(layer)]
        columns = self._columns(source, layer.in_channels, behind=behind)
        if layer.groups == 1:
            return self._layer(layer, columns, layer.out_channels, dims=behind + 2, behind=behind)
        if columns is not None and layer.groups == layer.in_channels == layer.out_channels:
            # depthwise: a channel stays itself, and its filter is a row of its own
            _join(self.rows, self.names[id(layer.weight)], columns)
            columns.members += self._row_members(layer)
            # its setting `groups` counts the channels, so that none can be taken out
            columns.root.fixed = True
            return Units(columns, behind + 2, behind)
        if columns is not None:
            columns.given_up = True
        units = self._layer(layer, None, layer.out_channels, dims=behind + 2, behind=behind)
        units.group.root.fixed = True  # a row reads what its place tells it to
        return units

    def _columns(self, source: Units | None, size: int, *, behind: int) -> Group | None:
        """The group of a layer's inputs, if they are the source's units, each one or more times.

        Args:
            source: What the layer reads.
            size: Number of its inputs.
            behind: Number of dims behind that of the units, as the layer takes them.
        """
        if source is None:
            return None
        group = source.group.root
        placed = source.with_positions(behind) if behind else self._with_features(source)
        if placed is not None and group.is_input:
            group.take_size(size)
            return group
        if placed is None or group.entries_each(size, flat=source.flat) is None:
            group.given_up = True
            return None
        return group

    def _with_features(self, source: Units) -> Units | None:
        """As what a linear layer takes; None: it acts on something else."""
        if source.behind is None:
            source.read_along(LAST)
            # an input's units are taken out along dim 1
            source.group.root.fixed |= (source.dims or 2) > 2
            return replace(source, behind=0)
        return source if source.behind == 0 else None

    def _layer(self, layer: Any, columns: Group | None, size: int, **kind: Any) -> Units:
        weight = self.names[id(layer.weight)]
        if columns is None:
            self.foreign.add((weight, 1))
        else:
            _join(self.columns, weight, columns)
            width = layer.weight.shape[1]
            columns.root.members.append(Along(weight, 1, width // (columns.root.size or width)))
        rows = self._group(weight, size)
        rows.members += self._row_members(layer)
        _join(self.rows, weight, rows)
        return Units(rows, **kind)

    def _row_members(self, layer: Any) -> list[Along]:
        tensors = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
        return [Along(self.names[id(tensor)], 0) for tensor in tensors]

    def _owns(self, tensor: Any) -> bool:
        """Whether this is a parameter, and not something that is made of others at each call."""
        return id(tensor) in self.names

    def _sum(self, node: fx.Node) -> Units | None:
        terms = [self.units.get(source) for source in node.all_input_nodes]
        known = [term for term in terms if term is not None]
        placed = [term for term in known if term.behind is not None]
        raw = [term for term in known if term.behind is None]
        same = len(known) == len(terms) and len({(t.behind, t.flat) for t in placed}) <= 1
        if placed and raw:  # an input beside features, as it is in a block with a skip
            same &= placed[0].behind == 0 and all(t.group.root.layout == LAST for t in raw)
        if not same or not known:
            self._give_up(node)
            return None
        first = (placed or raw)[0]
        for term in known:
            first.group.merge(term.group)
        dims = [term.dims for term in known]
        widest = None if None in dims else max(d for d in dims if d is not None)
        return replace(first, dims=widest, reshaped="".join(t.reshaped for t in known))

    def _source(self, node: fx.Node) -> Units | None:
        """The units of the only tensor that a node reads; gives up those of more than one."""
        first = node.args[0] if node.args else node.kwargs.get("input")
        if isinstance(first, fx.Node) and node.all_input_nodes == [first]:
            return self.units.get(first)
        self._give_up(node)
        return None

    def _give_up(self, node: fx.Node) -> None:
        for source in node.all_input_nodes:
            units = self.units.get(source)
            if units is not None:
                units.group.root.given_up = True


def _call(node: fx.Node) -> str:
    """What tells apart two calls on the same value."""
    return f"{node.target}{node.args[1:]}{node.kwargs}"


def _join(side: dict[str, Group], weight: str, group: Group) -> None:
    """Note a weight's group; a weight that is used twice makes both groups one."""
    if weight in side:
        side[weight].merge(group)
    else:
        side[weight] = group


def _traced(net: nn.Module) -> tuple[fx.Graph, nn.Module]:
    """The graph of a network, and the module that has the constants that came up in it."""
    root = copy.copy(net)  # tracing leaves constants in it
    try:
        with torch.enable_grad():  # shows which constants are made of parameters
            return fx.Tracer().trace(root), root
    except Exception as error:  # user code runs here: anything may come out
        raise UnsupportedError(
            f"the units of {type(net).__name__} cannot be found, since its forward method cannot "
            f"be traced: {error}",
            accepted="a forward method without control flow that depends on values, or a prior "
            "without shared gates: supports.Gated()",
        ) from error
