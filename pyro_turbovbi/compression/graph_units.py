"""Which slices of which tensors belong to the same unit.

Every dim of every tensor of a recorded computation is labelled, place by place, with the unit that
the place belongs to. Operations merge labels: adding two tensors makes the channels of both the
same units, a matrix product does so for the columns of the one and the rows of the other, a
concatenation puts the labels one behind the other, and a reshape into attention heads makes all
features of a head one unit. Where a place must stay (batches, positions, normalised features, what
an unknown operation touches) its label is merged with one special unit that is never cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_turbovbi.compression.graph_flow import Flow, mixed_dims
from pyro_turbovbi.compression.graph_partition import FIXED, Axis, Partition
from pyro_turbovbi.compression.graph_places import in_order, sources_along, sources_of, varies_along
from pyro_turbovbi.compression.graph_tape import Op, Tape, contraction_factors
from pyro_turbovbi.compression.graph_vocabulary import (
    ALONG_A_DIM,
    BATCH_NORMS,
    MOVES,
    POOLS,
    POSITIONAL,
    REDUCTIONS,
    SIZED,
    SUMS,
)

_ATEN = torch.ops.aten


@dataclass(frozen=True, eq=False)
class SizeUse:
    """A dim whose size the forward method may have written down as a number.

    Attributes:
        module: Dotted name of the module whose forward method ran.
        axis: Labels along the dim.
    """

    module: str
    axis: Axis


@dataclass(frozen=True, eq=False)
class GroupedConvolution:
    """A convolution whose groups are units.

    Attributes:
        module: Dotted name of the module whose forward method ran.
        groups: Labels of the groups.
    """

    module: str
    groups: Axis


class Units:
    """The units of a recorded computation.

    Args:
        flow: What varies and what is needed; it decides which of several possible cuts of a
            reshaped tensor is the useful one.
        fixed: Numbers of the values that must keep their shape.
        carrier: Which of the dims that a dim is split in carries its units on: the one at this
            position among those that keep units apart, whatever could be gained along another (-2
            of `(3, heads, features)`: whole heads). None: the one along which most can go.

    Attributes:
        partition: Which labels stand for the same unit.
        axes: For every value, the labels along each of its dims, before merging.
        sizes: Dims whose size the forward method may have written down.
        convolutions: Grouped convolutions.
        splits: Whether a dim was split in several of which more than one could carry its units.
    """

    def __init__(
        self, flow: Flow, fixed: Iterable[int] = (), *, carrier: int | None = None
    ) -> None:
        self._flow, self._choice, self.splits = flow, carrier, False
        self._tape: Tape = flow.tape
        self.partition = Partition()
        self.axes: list[list[Axis] | None] = [None] * len(self._tape.values)
        self.sizes: list[SizeUse] = []
        self.convolutions: list[GroupedConvolution] = []
        for number in self._tape.names:
            self.axes[number] = [self.partition.fresh(size) for size in self._size(number)]
        for op in self._tape.ops:
            self._follow(op)
        for number in (*self._tape.outputs, *fixed):
            self._fix_all(number)

    def labels(self, number: int) -> list[list[int]]:
        """The units along every dim of a value.

        Args:
            number: Number of the value.

        Returns:
            For every dim, the unit of each place.
        """
        return [[self.partition.find(label) for label in axis] for axis in self._axes(number)]

    def _merge_axes(self, a: Axis, b: Axis) -> None:
        for one, other in zip(a, b, strict=True):
            self.partition.merge(one, other)

    def _fix(self, axis: Axis) -> None:
        for label in axis:
            self.partition.merge(label, FIXED)

    def _fix_all(self, number: int) -> None:
        for axis in self._axes(number):
            self._fix(axis)

    def _size(self, number: int) -> torch.Size:
        return self._tape.values[number].shape

    def _axes(self, number: int) -> list[Axis]:
        """The labels of a value; inputs and constants of the forward method are fixed."""
        axes = self.axes[number]
        if axes is None:
            axes = [[FIXED] * size for size in self._size(number)]
            self.axes[number] = axes
        return axes

    # One rule for every family of operations.

    def _follow(self, op: Op) -> None:
        kind = op.kind
        if kind is _ATEN.cat or kind is _ATEN.stack:
            self._concatenate(op, stacked=kind is _ATEN.stack)
        elif kind in MOVES:
            self._move(op)
        elif kind is _ATEN.constant_pad_nd:
            self._pad(op)
        elif kind is _ATEN.linear:
            self._linear(op)
        elif kind in (_ATEN.mm, _ATEN.bmm, _ATEN.addmm, _ATEN.baddbmm):
            self._product(op)
        elif kind is _ATEN.convolution:
            self._convolution(op)
        elif kind is _ATEN.embedding:
            self._look_up(op)
        elif kind in BATCH_NORMS:
            self._batch_norm(op)
        elif kind in POOLS or kind in ALONG_A_DIM:
            self._along(op)
        elif kind in REDUCTIONS:
            self._reduce(op)
        elif kind is _ATEN.native_layer_norm:
            self._layer_norm(op)
        elif op.pointwise:
            self._entrywise(op)
        else:
            self._unknown(op)

    def _unknown(self, op: Op) -> None:
        for number in op.inputs:
            self._fix_all(number)

    def _set(self, op: Op, axes: list[Axis], position: int = 0) -> None:
        number = op.outputs[position]
        if number is not None:
            self.axes[number] = axes

    def _entrywise(self, op: Op) -> None:
        number = op.output
        shape = self._size(number)
        result: list[Axis] = [[FIXED] * size for size in shape]
        owned = [False] * len(shape)
        for source in op.inputs:
            axes = self._axes(source)
            offset = len(shape) - len(axes)
            for dim, axis in enumerate(axes, offset):
                if len(axis) != shape[dim] or len(axis) == 1:
                    continue  # broadcast
                if owned[dim]:
                    self._merge_axes(result[dim], axis)
                result[dim], owned[dim] = axis, True
        for position in range(len(op.outputs)):
            self._set(op, result, position)

    def _linear(self, op: Op) -> None:
        x, weight = self._axes(op.inputs[0]), self._axes(op.inputs[1])
        self._contract(op.inputs[0], x[-1], op.inputs[1], weight[1])
        if len(op.inputs) > 2:
            self._merge_axes(weight[0], self._axes(op.inputs[2])[0])
        self._set(op, [*x[:-1], weight[0]])

    def _product(self, op: Op) -> None:
        first, second = contraction_factors(op)
        a, b = self._axes(first), self._axes(second)
        self._contract(first, a[-1], second, b[-2])
        if op.kind in (_ATEN.bmm, _ATEN.baddbmm):
            self._merge_axes(a[0], b[0])
        out = [*a[:-1], b[-1]]
        if len(op.inputs) > 2:  # a bias, broadcast
            for axis, own in zip(self._axes(op.inputs[0])[::-1], out[::-1], strict=False):
                if len(axis) == len(own):
                    self._merge_axes(axis, own)
        self._set(op, out)

    def _contract(self, first: int, a: Axis, second: int, b: Axis) -> None:
        """Merges the dims of a sum of products.

        Two factors that both vary are queries and keys: their scale depends on the size.
        """
        self._merge_axes(a, b)
        if all(bool(self._flow.varies[n].any()) for n in (first, second)):
            self._fix(a)

    def _convolution(self, op: Op) -> None:
        x, weight = self._axes(op.inputs[0]), self._axes(op.inputs[1])
        transposed, groups = bool(op.args[6]), int(op.args[8])
        for axis in weight[2:]:
            self._fix(axis)
        if groups == 1:
            columns, rows = (weight[0], weight[1]) if transposed else (weight[1], weight[0])
            self._merge_axes(x[1], columns)
        else:
            rows = self._grouped(op, x[1], weight, groups, transposed)
        if len(op.inputs) > 2:
            self._merge_axes(rows, self._axes(op.inputs[2])[0])
        number = op.output
        places = [[FIXED] * size for size in self._size(number)[2:]]
        self._set(op, [x[0], rows, *places])

    def _grouped(
        self, op: Op, columns: Axis, weight: list[Axis], groups: int, transposed: bool
    ) -> Axis:
        """Makes every group of a convolution one unit; its rows are returned."""
        self._fix(weight[1])
        number = op.output
        outputs = self._size(number)[1]
        rows = self.partition.fresh(outputs) if transposed else weight[0]
        if transposed:
            self._merge_axes(weight[0], columns)
        firsts = columns[:: len(columns) // groups]
        for axis in (columns, rows):
            for place, label in enumerate(axis):
                self.partition.merge(firsts[place * groups // len(axis)], label)
        self.convolutions.append(GroupedConvolution(op.module, firsts))
        return rows

    def _look_up(self, op: Op) -> None:
        table, places = (self._axes(n) for n in op.inputs[:2])
        self._fix(table[0])
        self._set(op, [*places, table[1]])

    def _batch_norm(self, op: Op) -> None:
        x = self._axes(op.inputs[0])
        for number in op.inputs[1:]:
            self._merge_axes(x[1], self._axes(number)[0])
        self._set(op, x)

    def _layer_norm(self, op: Op) -> None:
        x = self._axes(op.inputs[0])
        for axis in x[len(x) - len(op.args[1]) :]:
            self._fix(axis)
        for number in op.inputs[1:]:
            self._fix_all(number)
        self._set(op, x)

    def _along(self, op: Op) -> None:
        x = self._axes(op.inputs[0])
        mixed = mixed_dims(op, len(x))
        for dim in mixed:
            self._fix(x[dim])
        for position, number in enumerate(op.outputs):
            if number is None:
                continue
            shape = self._size(number)
            axes = [[FIXED] * size if d in mixed else x[d] for d, size in enumerate(shape)]
            self._set(op, axes, position)

    def _reduce(self, op: Op) -> None:
        x = self._axes(op.inputs[0])
        mixed = mixed_dims(op, len(x))
        if op.kind not in SUMS:
            for dim in mixed:
                self._fix(x[dim])
        kept = len(self._size(op.output)) == len(x)
        axes = [[FIXED] if d in mixed else axis for d, axis in enumerate(x)]
        for position in range(len(op.outputs)):
            left = axes if kept else [axis for d, axis in enumerate(x) if d not in mixed]
            self._set(op, left, position)

    def _concatenate(self, op: Op, *, stacked: bool) -> None:
        number = op.output
        shape = self._size(number)
        dim = int(op.argument(1, "dim", 0)) % len(shape)
        parts = [self._axes(n) for n in op.inputs if self._size(n) != torch.Size([0])]
        if stacked:
            parts = [[*axes[:dim], [FIXED], *axes[dim:]] for axes in parts]
        result = list(parts[0])
        result[dim] = [label for axes in parts for label in axes[dim]]
        for axes in parts[1:]:
            for d, axis in enumerate(axes):
                if d != dim:
                    self._merge_axes(result[d], axis)
        self._set(op, result)

    def _pad(self, op: Op) -> None:
        """The places that are added are fixed; the others move aside."""
        result = []
        widths = list(op.args[1])
        for axis in reversed(self._axes(op.inputs[0])):
            before, after, *widths = widths or [0, 0]
            if min(before, after) < 0:
                self._fix(axis)
                axis = [FIXED] * (len(axis) + before + after)
                before = after = 0
            result.append([FIXED] * before + axis + [FIXED] * after)
        self._set(op, result[::-1])

    def _move(self, op: Op) -> None:
        """Follows labels through a move by moving the numbers of the places."""
        source = op.inputs[0]
        x, shape = self._axes(source), self._size(source)
        for number in op.inputs[1:]:
            self._fix_all(number)
        by_input = any(bool(self._flow.varies[n].any()) for n in op.inputs[1:])
        if by_input or 0 in shape:
            return self._unknown(op)
        for output, moved in zip(op.outputs, sources_of(op, self._tape), strict=True):
            if output is not None:
                self.axes[output] = self._moved(op, x, shape, moved)
        return None

    def _moved(self, op: Op, x: list[Axis], shape: torch.Size, moved: Tensor) -> list[Axis]:
        """Labels of one output of a move."""
        result: list[Axis] = [[FIXED] * size for size in moved.shape]
        carried = [False] * moved.ndim
        for dim, axis in enumerate(x):
            if all(self.partition.find(label) == FIXED for label in axis):
                continue
            coordinates = moved // math.prod(shape[dim + 1 :]) % shape[dim]
            varying = [d for d in range(moved.ndim) if varies_along(coordinates, d)]
            if not varying or (op.kind in POSITIONAL and not in_order(coordinates, shape[dim])):
                self._fix(axis)  # places that are chosen by their numbers
                continue
            needed = self._flow.needed_along(op.inputs[0], dim).tolist()
            target = self._carrier(axis, coordinates, varying, needed)
            labels = self._merged_along(axis, coordinates, target)
            if carried[target]:  # merged with another dim that has units: only one can be cut
                self._fix(labels)
                continue
            result[target], carried[target] = labels, True
            if op.kind in SIZED and moved.shape != shape:
                self.sizes += [SizeUse(op.module, labels), SizeUse(op.module, axis)]
        return result

    def _carrier(
        self, axis: Axis, coordinates: Tensor, varying: list[int], needed: list[bool]
    ) -> int:
        """Which dim of a split carries the units: the one along which most can go."""
        if len(varying) == 1:
            return varying[0]
        self.splits = True
        units = {target: sources_along(coordinates, target) for target in varying}
        apart = [target for target, rows in units.items() if self._distinct(axis, rows) > 1]
        if self._choice is not None and apart:
            return apart[max(self._choice, -len(apart))]

        def gain(target: int) -> tuple[float, int]:
            rows = units[target]
            free = sum(not any(needed[place] for place in row) for row in rows)
            # Without anything to gain: the outermost of those that keep the units apart.
            return free / len(rows), self._distinct(axis, rows) if free else int(target in apart)

        return max(varying, key=gain)

    def _distinct(self, axis: Axis, rows: list[set[int]]) -> int:
        """Number of different units that a dim would have."""
        find = self.partition.find
        return len({frozenset(find(axis[place]) for place in row) for row in rows})

    def _merged_along(self, axis: Axis, coordinates: Tensor, target: int) -> Axis:
        """Labels of a dim; the sources of one place become one unit."""
        labels = []
        for first, *others in map(sorted, sources_along(coordinates, target)):
            for other in others:
                self.partition.merge(axis[first], axis[other])
            labels.append(axis[first])
        return labels


def needed_units(units: Units, flow: Flow) -> set[int]:
    """Units that are needed somewhere.

    Args:
        units: The units.
        flow: What is needed, entry by entry.

    Returns:
        Those of which some entry of some tensor is needed, and `FIXED`.
    """
    found = {FIXED}
    for number, axes in enumerate(units.axes):
        for dim, axis in enumerate(axes or []):
            places = flow.needed_along(number, dim).nonzero().flatten()
            found |= {units.partition.find(axis[place]) for place in places.tolist()}
    return found


__all__ = ["GroupedConvolution", "SizeUse", "Units", "needed_units"]
