"""Records what a network computes as a list of primitive tensor operations.

The network runs once, on a small batch; every operation that reaches torch's dispatcher is noted
with the values that it reads and writes. This works for whatever runs - control flow, shared
modules, functions of all kinds - and leaves a small vocabulary, since torch takes composite
operations (attention, matrix products of any rank, padding modes) apart.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from pyro_turbovbi.compression.graph_vocabulary import is_pointwise
from pyro_turbovbi.errors import ShapeError, UnsupportedError

_ATEN = torch.ops.aten
_KEPT_WHOLE = frozenset({_ATEN.linear, _ATEN.chunk})
"""Composite operations that are clearer as they are than taken apart."""


@dataclass(frozen=True)
class Ref:
    """The place of a tensor in an operation's arguments.

    Attributes:
        index: Number of the value on the tape.
    """

    index: int


@dataclass(frozen=True, eq=False)
class Op:
    """One operation.

    Attributes:
        target: The operator with its overload, as the dispatcher calls it.
        args: Positional arguments, with a `Ref` in the place of every tensor.
        kwargs: Named arguments, likewise.
        outputs: Numbers of the values that it makes; None for an output that is no tensor.
        module: Dotted name of the innermost module that was running.
        opaque: Whether nothing is known of how the outputs depend on the inputs.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int | None, ...]
    module: str
    opaque: bool = False

    @property
    def kind(self) -> Any:
        """The operator without its overload; one that writes in place is named like its twin.

        None if the operation is opaque.
        """
        if self.opaque:
            return None
        packet = self.target.overloadpacket
        name = packet.__name__
        if self.target._schema.is_mutable and name.endswith("_") and not name.endswith("__"):
            return getattr(_ATEN, name[:-1], packet)
        return packet

    @property
    def output(self) -> int:
        """Number of the first value that it makes."""
        number = self.outputs[0]
        assert number is not None
        return number

    @property
    def pointwise(self) -> bool:
        """Whether it treats every entry by itself, its inputs broadcast."""
        return not self.opaque and is_pointwise(self.target)

    @cached_property
    def inputs(self) -> list[int]:
        """Numbers of the values that it reads, in the order of the arguments."""
        return [leaf.index for leaf in tree_leaves((self.args, self.kwargs)) if _is_ref(leaf)]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name.

        Args:
            position: Its position in the operator's schema.
            name: Its name in the operator's schema.
            default: What it is where it was not given.

        Returns:
            The argument.
        """
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def call(self, values: Iterable[Tensor]) -> list[Any]:
        """Repeats the operation on other values.

        Args:
            values: One for every entry of `inputs`.

        Returns:
            The outputs, as many as `outputs`.
        """
        rest = iter(values)
        args, kwargs = tree_map(
            lambda leaf: next(rest) if _is_ref(leaf) else leaf, (self.args, self.kwargs)
        )
        return _listed(self.target(*args, **kwargs))


@dataclass(eq=False)
class Tape:
    """A recorded computation.

    Attributes:
        values: All tensors that were read or written, in the order of their appearance.
        ops: The operations in the order of the computation.
        names: Parameters and buffers: number of the value to the (first) name in the network.
        inputs: Numbers of the network's inputs.
        outputs: Numbers of its outputs.
    """

    values: list[Tensor] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)


def contraction_factors(op: Op) -> tuple[int, int]:
    """The two factors of a sum of products.

    Args:
        op: A matrix product, linear layer or convolution.

    Returns:
        Numbers of the values; of a layer the input and the weight.
    """
    skipped = 1 if op.kind in (_ATEN.addmm, _ATEN.baddbmm) else 0
    first, second = op.inputs[skipped : skipped + 2]
    return first, second


def record(net: nn.Module, example: Tensor) -> Tape:
    """Runs a network in evaluation mode and notes every operation.

    Args:
        net: The network; it is not touched.
        example: An input batch, shape (batch, ...).

    Returns:
        The tape.

    Raises:
        ShapeError: If the network cannot be applied to the example.
        UnsupportedError: If it returns no tensors; see `tensors_in`.
    """
    private = copy.deepcopy(net).eval()
    # Not inside inference mode: what is recorded is differentiated later.
    recorder = _Recorder()
    for name, tensor in (*private.named_parameters(), *private.named_buffers()):
        recorder.tape.names[recorder.note(tensor.detach(), tensor)] = name
    inputs = example.clone()
    recorder.tape.inputs.append(recorder.note(inputs))
    with _modules_named(private, recorder), _only_primitives(), recorder:
        try:
            result = private(inputs)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise ShapeError(
                f"the network cannot be applied to its input: {error}",
                given=f"shape {tuple(example.shape)}, {example.dtype}",
                accepted="an example that the network can be applied to",
            ) from error
    recorder.tape.outputs = [recorder.number(leaf) for leaf in tensors_in(result)]
    # Tensors made in inference mode cannot take part in differentiation: copies can.
    recorder.tape.values = [value.detach().clone() for value in recorder.tape.values]
    return recorder.tape


def tensors_in(result: Any) -> list[Tensor]:
    """The tensors that a network returns.

    Args:
        result: A tensor, or tuples, lists and mappings of tensors, plain values and None.

    Returns:
        The tensors in their order.

    Raises:
        UnsupportedError: If there are none, or objects that tensors may be hidden in.
    """
    leaves = tree_leaves(result)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    unknown = [x for x in leaves if not isinstance(x, Tensor | bool | int | float | str | None)]
    if unknown or not tensors:
        raise UnsupportedError(
            "the network returns something else than tensors",
            given=type(unknown[0] if unknown else result).__name__,
            accepted="a tensor, or tuples, lists and dicts of tensors",
        )
    return tensors


def numbers_in(result: Any) -> list[Tensor]:
    """As `tensors_in`, with truth values and integers as floats: what can be subtracted."""
    return [t if t.is_complex() else t.double() for t in tensors_in(result)]


class _Recorder(TorchDispatchMode):
    """Notes operations on their way through torch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = Tape()
        self.modules: list[str] = [""]
        self.numbers: dict[int, int] = {}
        self.alive: list[Tensor] = []  # an id is unique as long as its tensor lives
        self.storages: dict[int, set[int]] = {}
        self.outdated: dict[int, tuple[Op, list[int]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in _KEPT_WHOLE:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        noted_args, noted_kwargs = tree_map(self._ref, (args, kwargs))
        written = self._written(func, args, kwargs)
        result = func(*args, **kwargs)
        outputs = tuple(
            self.note(out) if isinstance(out, Tensor) else None for out in _listed(result)
        )
        self.tape.ops.append(Op(func, noted_args, noted_kwargs, outputs, self.modules[-1]))
        self._outdate(written)
        return result

    def note(self, tensor: Tensor, identity: Tensor | None = None) -> int:
        """Numbers a tensor as a new value; `identity` is the object that stands for it."""
        identity = tensor if identity is None else identity
        number = len(self.tape.values)
        self.tape.values.append(tensor)
        self.alive.append(identity)
        self.numbers[id(identity)] = number
        self.storages.setdefault(tensor.untyped_storage().data_ptr(), set()).add(number)
        return number

    def number(self, tensor: Tensor) -> int:
        """The number of a tensor; one that nothing on the tape has made is a new constant."""
        number = self.numbers.get(id(tensor))
        if number is None:
            return self.note(tensor)
        return self._renew(number) if number in self.outdated else number

    def _ref(self, leaf: Any) -> Any:
        return Ref(self.number(leaf)) if isinstance(leaf, Tensor) else leaf

    def _written(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
        """Copies the values that an operation is going to overwrite; returns their numbers."""
        if not func._schema.is_mutable:
            return []
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        written: list[int] = []
        for argument in func._schema.arguments:
            target = given.get(argument.name)
            if argument.is_write and isinstance(target, Tensor):
                shared = self.storages.pop(target.untyped_storage().data_ptr(), set())
                for number in shared:
                    self.tape.values[number] = self.tape.values[number].clone()
                written += shared
        return written

    def _outdate(self, written: list[int]) -> None:
        """Remembers what was written to memory that other values are views of."""
        last = self.tape.ops[-1]
        made = [n for n in last.outputs if n is not None]
        for number in written:
            self.outdated[number] = (last, [*written, *last.inputs, *made])

    def _renew(self, number: int) -> int:
        """A new value for a view of memory that was written to: anything, made of all."""
        last, sources = self.outdated[number]
        new = self.note(self.alive[number])
        refs = tuple(Ref(n) for n in dict.fromkeys(sources))
        self.tape.ops.append(Op(last.target, refs, {}, (new,), last.module, opaque=True))
        return new


@contextmanager
def _modules_named(net: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Keeps the recorder informed of the innermost module that runs."""
    with ExitStack() as stack:
        for name, module in net.named_modules():

            def enter(_module: nn.Module, _args: Any, name: str = name) -> None:
                recorder.modules.append(name)

            def leave(_module: nn.Module, _args: Any, _result: Any) -> None:
                recorder.modules.pop()

            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield


@contextmanager
def _only_primitives() -> Iterator[None]:
    """Attention and encoder layers step by step instead of in one opaque operation."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _is_ref(leaf: Any) -> bool:
    return isinstance(leaf, Ref)


def _listed(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


__all__ = ["Op", "Ref", "Tape", "contraction_factors", "numbers_in", "record", "tensors_in"]
