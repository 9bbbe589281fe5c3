"""Reads a network as a chain of listed layers.

A network is traced symbolically: a `Sequential` of `Sequential`s, and a hand-written `forward` that
applies one layer after the other, give the same chain. What is no chain (a skip connection, two
inputs) is refused by name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, fx, nn

from pyro_turbovbi.compression.calls import (
    FUNCTIONS,
    METHODS,
    RESHAPES,
    SIZE_ARITHMETIC,
    SIZE_QUERIES,
    layer_for,
)
from pyro_turbovbi.compression.layers import (
    LAYERS,
    Role,
    accepted_layers,
    check_layer,
    config_of,
    rebuild,
    role_of,
)
from pyro_turbovbi.errors import ShapeError, UnsupportedError


@dataclass(frozen=True)
class Link:
    """One layer of a chain and the shapes that flow through it.

    Attributes:
        path: Dotted name of the module in the network; None if the layer stands for a function
            call.
        name: A name without dots, unique in the chain.
        layer: A private copy of the layer in evaluation mode.
        in_shape: Shape of its input without the batch dimension.
        out_shape: Shape of its output without the batch dimension.
    """

    path: str | None
    name: str
    layer: nn.Module
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    @property
    def role(self) -> Role:
        """What the layer does to units."""
        return role_of(self.layer)

    @property
    def merges_positions(self) -> bool:
        """Whether it turns channels with positions into a row of features."""
        return self.role is Role.RESHAPE and len(self.in_shape) > 1


def chain_of(net: nn.Module, example: Tensor) -> list[Link]:
    """Traces a network into a chain of layers.

    The network is not touched: the chain holds copies in evaluation mode.

    Args:
        net: The network.
        example: An input batch, shape (batch, ...); its values do not matter, the shapes do.

    Returns:
        The layers in the order of the computation.

    Raises:
        UnsupportedError: If the network is not a chain of listed layers.
        ShapeError: If the network cannot be applied to the example.
    """
    private = copy.deepcopy(net).eval()
    if type(private) in LAYERS:
        private = nn.Sequential(private)
        links = _Reader(private, example).read()
        return [Link("", "layer", link.layer, link.in_shape, link.out_shape) for link in links]
    return _Reader(private, example).read()


class _LeafTracer(fx.Tracer):
    """Traces down to the listed layers and every other layer of torch."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in LAYERS or super().is_leaf_module(m, module_qualified_name)


class _Reader:
    """Walks along the traced graph, applying every layer to the example to learn the shapes."""

    def __init__(self, net: nn.Module, example: Tensor) -> None:
        self.net = net
        self.value = example
        self.head: fx.Node | None = None
        self.shapes: dict[fx.Node, torch.Size] = {}
        self.sizes: dict[fx.Node, Any] = {}
        self.links: list[Link] = []
        self.parameters: set[int] = set()

    def read(self) -> list[Link]:
        for node in self._nodes():
            if node.op == "placeholder":
                self._start(node)
            elif node.op == "output":
                if node.args[0] is not self.head:
                    raise _not_a_chain(node, "must return the last layer's output")
            elif not self._is_size(node):
                self._append(node)
        return self.links

    def _nodes(self) -> list[fx.Node]:
        try:
            return list(_LeafTracer().trace(self.net).nodes)
        except Exception as error:  # user code runs here: anything may come out
            raise UnsupportedError(
                f"the forward method of {type(self.net).__name__} cannot be traced: {error}",
                accepted=accepted_layers(),
            ) from error

    def _start(self, node: fx.Node) -> None:
        if self.head is None:
            self.head = node
            self.shapes[node] = self.value.shape
        elif node.users:
            raise _not_a_chain(node, "is a second input")

    def _is_size(self, node: fx.Node) -> bool:
        """Whether a call asks for a shape or computes with sizes; if so, its value is noted."""
        source, *rest = node.args or (None,)
        known = all(n in self.sizes for n in node.all_input_nodes if n is not source)
        if node.target not in SIZE_QUERIES or not known or not isinstance(source, fx.Node):
            return False
        subject: Any
        if source in self.sizes:
            subject = self.sizes[source]
        elif node.target in SIZE_ARITHMETIC or (node.target is getattr and rest != ["shape"]):
            return False
        else:
            subject = torch.empty(self.shapes[source], device="meta")
        self.sizes[node] = _call(node, subject, *self._known((rest, node.kwargs)))
        return True

    def _known(self, arg: Any) -> Any:
        """The arguments of a call with sizes in the place of the nodes that stand for them."""
        return fx.node.map_arg(arg, lambda node: self.sizes[node])

    def _append(self, node: fx.Node) -> None:
        others = [source for source in node.all_input_nodes if source not in self.sizes]
        if not node.args or node.args[0] is not self.head or others != [self.head]:
            raise _not_a_chain(node, "does not take the output of the layer before it alone")
        path, layer = self._layer(node)
        where = node.name if path is None else path
        check_layer(layer, where)
        self._refuse_shared(layer, where)
        before = self.value.shape
        _check_dims(layer, before, where)
        layer = rebuild(type(layer), config_of(layer), layer.state_dict())
        self._apply(layer, where)
        _check_shape(layer, before, self.value.shape, where)
        self.head = node
        self.shapes[node] = self.value.shape
        name = self._unique(where.replace(".", "_"))
        self.links.append(Link(path, name, layer, tuple(before[1:]), tuple(self.value.shape[1:])))

    def _refuse_shared(self, layer: nn.Module, where: str) -> None:
        for parameter in layer.parameters():
            if id(parameter) in self.parameters:
                raise UnsupportedError(
                    f"layer '{where}' shares its parameters with an earlier layer",
                    accepted="a chain in which every layer is used once",
                )
            self.parameters.add(id(parameter))

    def _layer(self, node: fx.Node) -> tuple[str | None, nn.Module]:
        if node.op == "call_module":
            path = str(node.target)
            return path, self.net.get_submodule(path)
        if node.op in ("call_function", "call_method"):
            if node.target in RESHAPES:
                return None, self._reshape(node)
            table: Any = FUNCTIONS if node.op == "call_function" else METHODS
            if node.target in table:
                layer = layer_for(table[node.target], node.args[1:], node.kwargs)
                if layer is not None:
                    return None, layer
        raise _not_a_chain(node, "has no counterpart among the accepted layers")

    def _reshape(self, node: fx.Node) -> nn.Module:
        """A flatten or an identity, judged by what the call does to the example's shape."""
        stand_in = torch.empty(self.value.shape, device="meta")
        shape = _call(node, stand_in, *self._known((node.args[1:], node.kwargs))).shape
        if shape == stand_in.shape:
            return nn.Identity()
        if shape == stand_in.flatten(1).shape:
            return nn.Flatten()
        raise _not_a_chain(node, f"reshapes {tuple(stand_in.shape)} into {tuple(shape)}")

    def _apply(self, layer: nn.Module, where: str) -> None:
        try:
            with torch.no_grad():
                self.value = layer(self.value)
        except RuntimeError as error:
            raise ShapeError(
                f"layer '{where}' cannot be applied to its input: {error}",
                given=f"shape {tuple(self.value.shape)}, {self.value.dtype}",
                accepted="an example that the network can be applied to",
            ) from error

    def _unique(self, name: str) -> str:
        """The name, numbered if it is taken or an attribute of every container."""
        taken = {link.name for link in self.links}
        numbered = chain([name], (f"{name}_{i}" for i in count(1)))
        return next(n for n in numbered if n not in taken and not hasattr(nn.Sequential, n))


def _call(node: fx.Node, subject: Any, rest: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Repeats a traced call on another value."""
    if isinstance(node.target, str):
        return getattr(subject, node.target)(*rest, **kwargs)
    assert callable(node.target)
    return node.target(subject, *rest, **kwargs)


def _check_dims(layer: nn.Module, shape: torch.Size, where: str) -> None:
    dims = LAYERS[type(layer)].dims
    if dims is not None and len(shape) != dims:
        raise ShapeError(
            f"layer '{where}' ({type(layer).__name__}) is applied to {len(shape)} dimensions",
            given=f"shape {tuple(shape)}",
            accepted=f"{dims} dimensions, the batch first",
        )


def _check_shape(layer: nn.Module, before: torch.Size, after: torch.Size, where: str) -> None:
    if role_of(layer) is Role.RESHAPE and after != torch.Size((before[0], before[1:].numel())):
        raise UnsupportedError(
            f"layer '{where}' (Flatten) does not flatten everything behind the batch dimension",
            given=f"{tuple(before)} into {tuple(after)}",
            accepted="Flatten(start_dim=1, end_dim=-1)",
        )


def _not_a_chain(node: fx.Node, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"the network is not a chain of layers: '{node.name}' {why}",
        given=node.format_node() or str(node),
        accepted=accepted_layers(),
    )
