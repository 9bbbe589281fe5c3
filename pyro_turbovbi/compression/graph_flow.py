"""Which entries of a recorded computation vary with the input, and which the outputs need.

Both questions are answered entry by entry, by one bilinear stand-in for every operation, with
non-negative coefficients: an output entry of the stand-in is positive where the operation lets
something through. Applied to "varies with the input" it gives what varies; its transpose applied
to "is needed" gives what is needed. In a sum of products a factor lets something through only
where the other factor can be non-zero, so that pruned weights cut connections.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_turbovbi.compression.graph_tape import Op, Tape, contraction_factors
from pyro_turbovbi.compression.graph_vocabulary import (
    ALONG_A_DIM,
    BATCH_NORMS,
    CONTRACTIONS,
    COPIES,
    MOVES,
    POOLS,
    PRODUCTS,
    REDUCTIONS,
    SOFTMAXES,
    VIEWS,
)
from pyro_turbovbi.errors import UnsupportedError

_ATEN = torch.ops.aten
_Tensors = list[Tensor]


class Flow:
    """What varies and what is needed in a recorded computation.

    Args:
        tape: The computation, recorded in double precision.

    Attributes:
        tape: The computation.
        varies: For every value: the entries that depend on the network's inputs, boolean.
        alive: For every value: the entries that vary or are a constant other than zero, boolean.
        averages: Numbers of the values whose last dim holds the weights of an average: not
            negative, with sum one.
        needed: For every value: the entries that are alive and that an output depends on, boolean.

    Raises:
        UnsupportedError: If the computation branches on values that depend on the inputs.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        shapes = [value.shape for value in tape.values]
        self.varies = [torch.zeros(shape, dtype=torch.bool) for shape in shapes]
        for number in tape.inputs:
            self.varies[number] = torch.ones_like(self.varies[number])
        self.averages: set[int] = set()
        self.alive: _Tensors = [value.cpu() != 0 for value in tape.values]
        for op in tape.ops:
            self._forward(op)
        self.needed = [torch.zeros(shape, dtype=torch.bool) for shape in shapes]
        for number in tape.outputs:
            self.needed[number] = torch.ones_like(self.needed[number])
        for op in reversed(tape.ops):
            self._backward(op)
        for number, alive in enumerate(self.alive):
            if number not in tape.outputs:
                self.needed[number] = self.needed[number] & alive

    def needed_along(self, number: int, dim: int) -> Tensor:
        """Places along a dim of which some entry is needed.

        Args:
            number: Number of the value.
            dim: The dim.

        Returns:
            Boolean, one for every place.
        """
        others = [d for d in range(self.needed[number].ndim) if d != dim]
        return self.needed[number].any(others) if others else self.needed[number]

    def _forward(self, op: Op) -> None:
        self._note_averages(op)
        sources = op.inputs
        if not any(bool(self.varies[n].any()) for n in sources):
            return
        if op.kind is _ATEN._local_scalar_dense:
            raise UnsupportedError(
                "the forward method branches or computes on a number read from a tensor that "
                "depends on the input",
                given=f"module '{op.module}'",
                accepted="a forward method without control flow that depends on values",
            )
        with torch.no_grad():
            given = [self.varies[n].double() for n in sources]
            for number, out in self._outputs(op, given):
                self.varies[number] = out > 0
                self.alive[number] = self.alive[number] | self.varies[number]

    def _backward(self, op: Op) -> None:
        wanted = [n for n in op.outputs if n is not None and bool(self.needed[n].any())]
        if not wanted or not op.inputs:
            return
        given = [torch.zeros(self.varies[n].shape).double().requires_grad_() for n in op.inputs]
        with torch.enable_grad():
            outputs = dict(self._outputs(op, given))
        pairs = [
            (outputs[n], (self.needed[n] & (self.alive[n] | self._is_output(n))).double())
            for n in wanted
            if n in outputs and outputs[n].requires_grad
        ]
        if not pairs:
            return
        gradients = torch.autograd.grad(
            [out for out, _ in pairs], given, [need for _, need in pairs], allow_unused=True
        )
        for number, gradient in zip(op.inputs, gradients, strict=True):
            if gradient is not None:
                self.needed[number] = self.needed[number] | (gradient > 0)

    def _is_output(self, number: int) -> bool:
        return number in self.tape.outputs

    def _outputs(self, op: Op, given: _Tensors) -> list[tuple[int, Tensor]]:
        """The stand-in's outputs, with the numbers of the values that they stand for."""
        made = self._stand_in(op, given)
        return [(n, out) for n, out in zip(op.outputs, made, strict=True) if n is not None]

    def _stand_in(self, op: Op, given: _Tensors) -> _Tensors:
        kind = op.kind
        if kind in MOVES or kind in (_ATEN.cat, _ATEN.stack, _ATEN.constant_pad_nd):
            moved = self._move(op, given)
            if moved is not None:
                return moved
        elif kind in CONTRACTIONS:
            return [self._contract(op, given)]
        elif kind is _ATEN.embedding:
            return [self._look_up(op, given)]
        elif kind in PRODUCTS and len(given) == 2:
            alive = [self.alive[n].double() for n in op.inputs]
            return [given[0] * alive[1] + alive[0] * given[1]]
        elif kind in BATCH_NORMS:
            return self._batch_norm(op, given)
        elif kind in POOLS or kind in ALONG_A_DIM or kind in REDUCTIONS:
            return self._mix(op, given)
        elif kind is _ATEN.native_layer_norm:
            return self._layer_norm(op, given)
        elif op.pointwise:
            return self._entrywise(op, given)
        return self._mix_all(op, given)

    def _shape(self, op: Op, position: int = 0) -> torch.Size:
        number = op.outputs[position]
        assert number is not None
        return self.tape.values[number].shape

    def _mix_all(self, op: Op, given: _Tensors) -> _Tensors:
        total = torch.stack([x.sum() for x in given]).sum() if given else torch.zeros(()).double()
        return [total if n is None else total.expand(self.tape.values[n].shape) for n in op.outputs]

    def _entrywise(self, op: Op, given: _Tensors) -> _Tensors:
        shape = self._shape(op)
        total = torch.zeros(shape).double()
        for x in given:
            total = total + x.expand(shape)
        return [total] * len(op.outputs)

    def _move(self, op: Op, given: _Tensors) -> _Tensors | None:
        """The move itself; None if the places depend on the inputs."""
        index = [i for i, n in enumerate(op.inputs) if not self._carries(op, i, n)]
        if any(bool(self.varies[op.inputs[i]].any()) for i in index):
            return None
        values = [self.tape.values[n].cpu() if i in index else given[i]
                  for i, n in enumerate(op.inputs)]  # fmt: skip
        if op.kind in COPIES:
            return [given[0]]
        if op.kind in VIEWS:  # the original may have been laid out in memory differently
            return [given[0].reshape(self._shape(op))]
        if op.kind is _ATEN.constant_pad_nd:
            return [_ATEN.constant_pad_nd(given[0], op.args[1], 0.0)]
        return op.call(values)

    def _carries(self, op: Op, position: int, number: int) -> bool:
        """Whether an input of a move holds what is moved, and not the places."""
        if op.kind in (_ATEN.index, _ATEN.index_select, _ATEN.gather, _ATEN.repeat_interleave):
            return position == 0
        return True

    def _contract(self, op: Op, given: _Tensors) -> Tensor:
        alive = [self.alive[n].double() for n in op.inputs]
        skip = 1 if op.kind in (_ATEN.addmm, _ATEN.baddbmm) else 0  # the bias comes first
        (a, b), (alive_a, alive_b) = given[skip : skip + 2], alive[skip : skip + 2]
        bias = given[2 - 2 * skip] if len(given) > 2 else None
        if op.kind is _ATEN.linear:
            product = a @ alive_b.T + alive_a @ b.T
        elif op.kind is _ATEN.convolution:
            rest = list(op.args[3:])
            product = torch.convolution(a, alive_b, None, *rest)
            product = product + torch.convolution(alive_a, b, None, *rest)
            if bias is not None:
                bias = bias.reshape(-1, *(1 for _ in rest[0]))
        else:
            if op.kind in (_ATEN.bmm, _ATEN.baddbmm):
                alive_b = alive_b * self._not_averaged_away(op)
            product = a @ alive_b + alive_a @ b
        return product if bias is None else product + bias

    def _not_averaged_away(self, op: Op) -> Tensor:
        """0 where a column of the second factor is one constant and the first one averages.

        Attention weights sum to one: a value that is the same for all tokens stays what it is,
        whatever the weights.
        """
        first, second = contraction_factors(op)
        if first not in self.averages:
            return torch.ones(()).double()
        value = self.tape.values[second].cpu()
        flat = (value == value[:, :1]).all(1, keepdim=True)
        constant = ~self.varies[second].any(1, keepdim=True)
        return (~(flat & constant)).double()

    def _note_averages(self, op: Op) -> None:
        """Notes values whose entries along the last dim are non-negative and sum to one."""
        out = op.outputs[0] if op.outputs else None
        if out is None:
            return
        value = self.tape.values[out]
        if op.kind in SOFTMAXES and op.kind is not _ATEN._log_softmax:
            averages = op.argument(1, "dim") % value.ndim == value.ndim - 1
        else:
            kept = op.kind in VIEWS | COPIES or op.kind is _ATEN.expand
            averages = kept and op.inputs[0] in self.averages
            averages = averages and value.shape[-1:] == self.tape.values[op.inputs[0]].shape[-1:]
        if averages and bool(((value.double().sum(-1) - 1).abs() < 1e-9).all()):
            self.averages.add(out)

    def _look_up(self, op: Op, given: _Tensors) -> Tensor:
        table, places = given
        used = self.alive[op.inputs[0]].any(0).double()
        return places.unsqueeze(-1) * used + table.sum(0)

    def _batch_norm(self, op: Op, given: _Tensors) -> _Tensors:
        x, ndim = given[0], given[0].ndim
        view = (1, -1, *(1 for _ in range(ndim - 2)))
        scaled = op.args[1] is not None
        weight = self.alive[op.inputs[1]].double().reshape(view) if scaled else 1.0
        total = x * weight
        for other in given[1:]:
            total = total + other.reshape(view)
        return [total, *(total.sum() for _ in op.outputs[1:])]

    def _layer_norm(self, op: Op, given: _Tensors) -> _Tensors:
        dims = list(range(-len(op.args[1]), 0))
        x = given[0]
        total = x.sum(dims, keepdim=True).expand(x.shape)
        if op.args[2] is not None:
            total = total * self.alive[op.inputs[1]].double()
        for other in given[1:]:
            total = total + other
        return [total, *(total.sum().expand(self._shape(op, i)) for i in (1, 2))]

    def _mix(self, op: Op, given: _Tensors) -> _Tensors:
        """Sums over the dims that the operation mixes, spread over all that it makes of them."""
        dims = mixed_dims(op, given[0].ndim)
        total = given[0].sum(dims, keepdim=True) if dims else given[0]
        result = []
        for number in op.outputs:
            shape = self.tape.values[number].shape if number is not None else total.shape
            kept = len(shape) == total.ndim
            result.append((total if kept else total.reshape(_without(total.shape, dims)))
                          .expand(shape))  # fmt: skip
        return result


def mixed_dims(op: Op, ndim: int) -> list[int]:
    """The dims that an operation mixes.

    Args:
        op: A pool, a reduction or an operation along a dim.
        ndim: Number of dims of its first input.

    Returns:
        The dims, counted from the front.
    """
    if op.kind in POOLS:
        return list(range(ndim - POOLS[op.kind], ndim))
    schema = [argument.name for argument in op.target._schema.arguments]
    if "dim" not in schema:
        return list(range(ndim))
    dims = op.argument(schema.index("dim"), "dim")
    if dims is None or dims == []:
        return list(range(ndim))
    listed = dims if isinstance(dims, (list, tuple)) else [dims]
    return sorted(int(dim) % ndim for dim in listed) if ndim else []


def _without(shape: torch.Size, dims: list[int]) -> list[int]:
    return [size for dim, size in enumerate(shape) if dim not in dims]


def same_everywhere(values: Tensor, flatness: float) -> Tensor:
    """Which rows hold one value only, up to rounding.

    Args:
        values: Shape (rows, entries).
        flatness: Accepted spread relative to the largest entry of the row.

    Returns:
        Boolean, shape (rows,).
    """
    if math.prod(values.shape) == 0:
        return torch.ones(values.shape[0], dtype=torch.bool)
    spread = values.amax(1) - values.amin(1)
    return spread <= flatness * values.abs().amax(1)


__all__ = ["Flow", "mixed_dims", "same_everywhere"]
