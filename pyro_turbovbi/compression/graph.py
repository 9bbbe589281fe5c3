"""Cuts networks of any shape: skip connections, concatenations, attention, grouped convolutions.

The masked network is recorded on a small batch. Constant units are folded into biases; units that
nothing needs are found entry by entry; units that share a tensor's places are cut together or not
at all; and the network's own modules get narrower tensors, so that class and forward method stay
the user's. A cut is kept only if the cut network computes what the masked one computes: where a
forward method has written a size down that no attribute of its module tells, the units concerned
stay.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.graph_flow import Flow
from pyro_turbovbi.compression.graph_fold import fold_constants
from pyro_turbovbi.compression.graph_partition import FIXED
from pyro_turbovbi.compression.graph_tape import Op, Tape, contraction_factors, numbers_in, record
from pyro_turbovbi.compression.graph_units import Units, needed_units
from pyro_turbovbi.compression.graph_vocabulary import CONTRACTIONS
from pyro_turbovbi.compression.surgery import Kept, Surgery, kept_places, narrowed

EXAMPLES = 2
"""Inputs that are recorded; more would show nothing new."""
TOLERANCE = 1e-6
"""Accepted deviation of a trial cut in double precision, relative to the largest output."""
_Works = Callable[[Surgery], bool]
_WHOLE = (nn.MultiheadAttention, nn.RNNBase)
"""Modules whose forward method checks its own sizes: their tensors keep their shapes."""


@dataclass(frozen=True, eq=False)
class GraphCut:
    """A cut network and how it was made.

    Attributes:
        module: The smaller network: the user's class, in evaluation mode.
        surgery: What was cut.
        units: Units of every coupling group in the order of the computation, without inputs and
            outputs: kept ones.
        units_dense: The same before the cut.
    """

    module: nn.Module
    surgery: Surgery
    units: tuple[int, ...]
    units_dense: tuple[int, ...]

    def name_of(self, name: str) -> str:
        """The name in `module` of an original parameter.

        Args:
            name: Its name in the original network.

        Returns:
            The same name.
        """
        return name

    def cut_like(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cuts tensors as the parameters that they belong to were cut.

        Args:
            tensors: Original parameter name to tensor of the parameter's shape.

        Returns:
            Name to tensor of the cut parameter's shape; zero where a weight matrix is zero.
        """
        first = _first_names(self.module)
        result = {}
        for name, tensor in tensors.items():
            parameter = self.module.get_parameter(name)
            kept = self.surgery.kept.get(first[name], (None,) * tensor.ndim)
            cut = narrowed(tensor.detach(), kept)
            result[name] = cut if parameter.ndim < 2 else cut.masked_fill(parameter == 0, 0.0)
        return result

    def masks(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The supports that are left of some parameters.

        Args:
            names: The parameters by their names in the network.

        Returns:
            Name to boolean tensor of the cut parameter's shape: True where it is not zero.
        """
        return {name: self.module.get_parameter(name).detach() != 0 for name in names}


def cut_graph(pruned: nn.Module, example: Tensor) -> GraphCut:
    """Cuts a network whose pruned weights are already zero.

    Args:
        pruned: Any network that torch can run on one input tensor; it is not touched.
        example: An input batch, shape (batch, ...).

    Returns:
        The cut network. It computes the same on the example; `compress` checks all inputs.

    Raises:
        ShapeError: If the network cannot be applied to the example.
        UnsupportedError: If its operations cannot be recorded, or depend on values of the input.
    """
    example = _few(example)
    folded = copy.deepcopy(pruned).double().eval()
    biases = fold_constants(folded, Flow(record(folded, example)))
    flow = Flow(record(folded, example))
    expected = _run(folded, example)
    plans = [_Plan(folded, flow)]
    if plans[0].units.splits:
        plans += [_Plan(folded, flow, carrier=position) for position in (-2, 0)]
    works = functools.partial(_agrees, net=folded, example=example, expected=expected)
    found = [(plan, plan.search(works)) for plan in plans]
    plan, surgery = max(found, key=lambda pair: pair[0].removed(pair[1]))
    if not surgery.kept:  # then nothing needs to be folded either
        return GraphCut(surgery.apply(pruned), surgery, *plan.structure(surgery))
    source = _with_values_of(pruned, folded, biases)
    complete = Surgery(surgery.kept, surgery.attributes, biases)
    return GraphCut(complete.apply(source), complete, *plan.structure(surgery))


class _Plan:
    """The units that may go, and the ways to cut them that are worth a trial."""

    def __init__(self, net: nn.Module, flow: Flow, *, carrier: int | None = None) -> None:
        self.net = net
        self.tape: Tape = flow.tape
        whole = [f"{n}." if n else "" for n, m in net.named_modules() if isinstance(m, _WHOLE)]
        read = {number for op in self.tape.ops for number in op.inputs}
        fixed = [
            number
            for number, name in self.tape.names.items()
            if number not in read or any(name.startswith(prefix) for prefix in whole)
        ]
        self.units = Units(flow, fixed, carrier=carrier)
        self.dead = self._dead(flow)

    def _dead(self, flow: Flow) -> set[int]:
        """Units that nothing needs; of every dim at least one unit stays."""
        units = self.units
        labels = [axis for n in range(len(units.axes)) for axis in units.labels(n) if axis]
        dead = {label for axis in labels for label in axis} - needed_units(units, flow)
        for axis in labels:
            if dead.issuperset(axis):
                dead.discard(axis[0])
        return dead

    def search(self, works: _Works) -> Surgery:
        """The largest cut that works, by trying first all, then group by group."""
        if not self.dead:
            return Surgery({})
        for trial in self._variants(self.dead):
            if works(trial):
                return trial
        chosen: set[int] = set()
        best = Surgery({})
        for part in self._parts():
            for trial in self._variants(chosen | part):
                if works(trial):
                    chosen, best = chosen | part, trial
                    break
        return best

    def _parts(self) -> list[set[int]]:
        parts: dict[int, set[int]] = {}
        for unit in sorted(self.dead):
            parts.setdefault(self.units.partition.group(unit), set()).add(unit)
        return list(parts.values())

    def _variants(self, dead: set[int]) -> list[Surgery]:
        """The same cut with fewer or more attributes changed; unequal ones only."""
        kept = self._kept(dead)
        groups = self._groups(dead)
        heads = self._sizes(dead, lambda name: "head" in name or "group" in name)
        every = self._sizes(dead, lambda name: True)
        variants: list[Surgery] = []
        for attributes in (groups, groups | heads, groups | every):
            if all(attributes != other.attributes for other in variants):
                variants.append(Surgery(kept, attributes))
        return variants

    def _kept(self, dead: set[int]) -> dict[str, Kept]:
        kept = {}
        for number, name in self.tape.names.items():
            places = tuple(
                kept_places([label not in dead for label in axis])
                for axis in self.units.labels(number)
            )
            if any(dim is not None for dim in places):
                kept[name] = places
        return kept

    def _groups(self, dead: set[int]) -> dict[str, int]:
        """Numbers of groups of the convolutions that lose some."""
        result = {}
        for convolution in self.units.convolutions:
            left = self._left(convolution.groups, dead)
            if left < len(convolution.groups):
                result[f"{convolution.module}.groups".lstrip(".")] = left
        return result

    def _sizes(self, dead: set[int], chosen: Callable[[str], bool]) -> dict[str, int]:
        """Attributes that hold the size of a dim that becomes shorter where they are used."""
        result: dict[str, int] = {}
        for use in self.units.sizes:
            left = self._left(use.axis, dead)
            module = self.net.get_submodule(use.module)
            for name, value in vars(module).items():
                if type(value) is int and value == len(use.axis) != left and chosen(name):
                    result[f"{use.module}.{name}".lstrip(".")] = left
        return result

    def _left(self, axis: list[int], dead: set[int]) -> int:
        return sum(self.units.partition.find(label) not in dead for label in axis)

    def removed(self, surgery: Surgery) -> int:
        """Entries of parameters and buffers that a cut removes."""
        total = 0
        for number, name in self.tape.names.items():
            shape = self.tape.values[number].shape
            kept = surgery.kept.get(name, (None,) * len(shape))
            left = (n if k is None else len(k) for n, k in zip(shape, kept, strict=True))
            total += shape.numel() - math.prod(left)
        return total

    def structure(self, surgery: Surgery) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Units of every coupling group, kept and before, in the order of the computation."""
        outputs = {
            self.units.partition.group(label)
            for number in self.tape.outputs
            for axis in self.units.axes[number] or []
            for label in axis
        }
        seen: set[int] = set(outputs)
        kept, dense = [], []
        for op in self.tape.ops:
            if op.kind not in CONTRACTIONS:
                continue
            number, rows = contraction_factors(op)[1], _rows_dim(op)
            if number not in self.tape.names:
                continue
            axes = self.units.axes[number]
            axis = axes[rows] if axes else []
            group = self.units.partition.group(axis[0]) if axis else FIXED
            if group in seen or len(axis) <= 1:
                continue
            seen.add(group)
            cut = surgery.kept.get(self.tape.names[number])
            places = cut[rows] if cut else None
            dense.append(len(axis))
            kept.append(len(axis) if places is None else len(places))
        return tuple(kept), tuple(dense)


def _rows_dim(op: Op) -> int:
    """The dim of the second factor of a sum of products along which the units lie that it makes."""
    if op.kind is torch.ops.aten.convolution:
        transposed, groups = bool(op.args[6]), int(op.args[8])
        # Those of groups are units of the inputs, too: along dim 1 lie places within a group.
        return 1 if transposed and groups == 1 else 0
    return 0 if op.kind is torch.ops.aten.linear else -1


def _first_names(net: nn.Module) -> dict[str, str]:
    """Every name of a parameter to the one under which it comes first."""
    named = list(net.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    for name, parameter in named:
        first.setdefault(id(parameter), name)
    return {name: first[id(parameter)] for name, parameter in named}


def _few(example: Tensor) -> Tensor:
    few = example[:EXAMPLES].detach()
    return few.double() if few.is_floating_point() else few


def _run(net: nn.Module, example: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        return numbers_in(net(example.clone()))


def _agrees(trial: Surgery, net: nn.Module, example: Tensor, expected: list[Tensor]) -> bool:
    """Whether a trial cut runs and computes the same on the example."""
    try:
        actual = _run(trial.apply(net), example)
    except Exception:  # user code runs here, on tensors of sizes that it may not expect
        return False
    if [a.shape for a in actual] != [e.shape for e in expected]:
        return False
    filled = [(a, e) for a, e in zip(actual, expected, strict=True) if e.numel()]
    size = max((float(e.abs().max()) for _, e in filled), default=0.0)
    deviations = [float((a - e).abs().max()) for a, e in filled]
    return all(deviation <= TOLERANCE * size for deviation in deviations)


def _with_values_of(pruned: nn.Module, folded: nn.Module, biases: tuple[str, ...]) -> nn.Module:
    """A copy of the pruned network, in its own precision, with the folded weights and biases."""
    result = Surgery({}, {}, biases).apply(pruned)
    values = dict(folded.named_parameters())
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            parameter.copy_(values[name])
    return result


__all__ = ["GraphCut", "cut_graph"]
