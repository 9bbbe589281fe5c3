"""Linear layers and the activations between them, computed as one: units first, in place.

`nn.Sequential` writes every intermediate result to new memory, input by input. A run of linear
layers with activations between them need not: each layer multiplies with its weight on the left
and leaves its outputs unit by unit, as the next one reads them, and an activation may overwrite
what nobody else sees. What is saved is little beside a large layer, but much of the time of the
small ones that cutting leaves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.inference_layers import SparseLinear, TransposedLinear, UnitsFirst
from pyro_turbovbi.compression.layers import LAYERS, InputSelect, Role, is_elementwise, role_of


class LinearChain(nn.Module):
    """Linear layers, each behind the one before, with activations that act on every value alone.

    Args:
        steps: Layers that compute units first, and elementwise activations; the first one is a
            layer. Activations are copied, and write over their input if they can.
    """

    def __init__(self, steps: Sequence[nn.Module]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(map(_in_place, steps))
        ends = [step for step in self.steps if isinstance(step, UnitsFirst)]
        self.in_features, self.out_features = ends[0].in_features, ends[-1].out_features
        self._plan: tuple[Tensor | None, list[Callable[[Tensor], Tensor]]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layers.

        Args:
            x: Shape (..., in_features).

        Returns:
            Shape (..., out_features).
        """
        inputs, calls = self._plan or self._bound()
        points = x if x.ndim == 2 else x.reshape(-1, self.in_features)
        units = (points if inputs is None else points.index_select(1, inputs)).T
        for call in calls:
            units = call(units)
        return units.T if x.ndim == 2 else units.T.reshape(*x.shape[:-1], self.out_features)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is bound to the tensors: a sparse one cannot be copied."""
        return {**self.__dict__, "_plan": None}

    def _apply(self, *args: Any, **kwargs: Any) -> LinearChain:  # to another device or type
        self._plan = None
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def _bound(self) -> tuple[Tensor | None, list[Callable[[Tensor], Tensor]]]:
        """Inputs to select, and the steps: bound to tensors, without what a module does at a call.

        Small layers take tens of microseconds; looking up a few buffers takes one.
        """
        first, *others = self.steps
        calls = [_call_of(step) for step in others]
        if isinstance(first, TransposedLinear):
            self._plan = first.inputs, [first.bound_to_selected(), *calls]
        else:
            self._plan = None, [_call_of(first), *calls]
        return self._plan


@dataclass(frozen=True)
class Run:
    """Neighbours in an `nn.Sequential` that can be computed as one.

    Attributes:
        parent: The `nn.Sequential`.
        members: The modules by their names in it, in order: an `InputSelect` at most in front, then
            linear layers and activations, a layer last.
    """

    parent: nn.Sequential
    members: Mapping[str, nn.Module]

    def chain(self) -> LinearChain:
        """The run as one module; the members are not touched."""
        steps: list[nn.Module] = []
        select: InputSelect | None = None
        for member in self.members.values():
            if isinstance(member, InputSelect):
                select = member
            elif isinstance(member, nn.Linear):
                steps.append(TransposedLinear(member, select=select))
                select = None
            elif not _does_nothing(member):
                steps.append(member)
        return LinearChain(steps)

    def put(self, chain: LinearChain) -> None:
        """Puts one module in the place of the members; the others keep their names.

        Args:
            chain: The module.
        """
        first, *others = self.members
        self.parent._modules[first] = chain
        for name in others:
            del self.parent._modules[name]

    def linears(self) -> list[nn.Module]:
        """The linear layers among the members, whatever computes them."""
        return [m for m in self.members.values() if isinstance(m, nn.Linear | UnitsFirst)]


def runs_in(net: nn.Module) -> Iterator[Run]:
    """The longest runs with two linear layers or more, or with one that selects its inputs.

    Modules with hooks, and ones that stand in several places, are in none.

    Args:
        net: Any network.

    Yields:
        The runs, in the order of the modules.
    """
    places = [child for parent in net.modules() for child in parent._modules.values()]
    for parent in list(net.modules()):
        if type(parent) is nn.Sequential:
            for members in _stretches(parent, places):
                run = Run(parent, members)
                selects = any(isinstance(member, InputSelect) for member in members.values())
                if len(run.linears()) + selects >= 2:
                    yield run


def _stretches(
    parent: nn.Sequential, places: Sequence[nn.Module | None]
) -> Iterator[dict[str, nn.Module]]:
    """Runs of what can be joined, without what stands before a first or behind a last layer."""
    found: dict[str, nn.Module] = {}
    for name, child in parent._modules.items():
        usable = child is not None and _joins(child) and sum(child is it for it in places) == 1
        if child is None or not usable or _begins_anew(found, child):
            yield _trimmed(found)
            found = {}
        if child is not None and usable and (found or _starts(child)):
            found[name] = child
    yield _trimmed(found)


def _begins_anew(found: dict[str, nn.Module], child: nn.Module) -> bool:
    """Whether a module selects inputs, or does not take what the one before has selected."""
    last = next(reversed(found.values()), None)
    in_vain = isinstance(last, InputSelect) and not isinstance(child, nn.Linear)
    return in_vain or isinstance(child, InputSelect)


def _trimmed(members: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    names = list(members)
    while names and not isinstance(members[names[-1]], nn.Linear | UnitsFirst):
        names.pop()
    return {name: members[name] for name in names}


def _starts(module: nn.Module) -> bool:
    """Whether a run may begin so: with what is left where a selection has been taken over, too."""
    return isinstance(module, nn.Linear | UnitsFirst | InputSelect) or _does_nothing(module)


def _joins(module: nn.Module) -> bool:
    if module._forward_hooks or module._forward_pre_hooks:
        return False
    if type(module) in (nn.Linear, TransposedLinear, SparseLinear, InputSelect):
        return True
    return is_elementwise(module) or _does_nothing(module)


def _does_nothing(module: nn.Module) -> bool:
    return type(module) in LAYERS and role_of(module) is Role.NOTHING


def _in_place(step: nn.Module) -> nn.Module:
    """The step itself if it is a layer; of an activation, a copy that overwrites its input."""
    if isinstance(step, UnitsFirst):
        return step
    step = copy.deepcopy(step)
    if hasattr(step, "inplace"):
        step.inplace = True  # type: ignore[assignment]
    return step


def _call_of(step: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(step, UnitsFirst):
        return step.bound()
    if type(step) is nn.ReLU:
        return torch.relu_
    return step.forward
