"""Networks that a file cannot rebuild: their tensors, and how to cut an instance of their class.

A chain of layers is rebuilt from the file alone. Any other network is code, which a file must not
bring along: the file holds the tensors and the `Surgery` that gives another instance of the class
the shapes of the cut one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.surgery import Surgery
from pyro_turbovbi.errors import ArtifactError, ShapeError, UnsupportedError


def own_tensors(net: nn.Module) -> dict[str, Tensor]:
    """What a network's `state_dict` holds, shared tensors once.

    Args:
        net: Any network.

    Returns:
        First name to the tensor itself, not a copy.

    Raises:
        UnsupportedError: If the state has parts that are no tensors.
    """
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in net.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise UnsupportedError(
                "the network's state has a part that is no tensor", given=name, accepted="tensors"
            )
        if id(tensor) not in seen:
            seen.add(id(tensor))
            named[name] = tensor
    return named


def described(surgery: Surgery) -> tuple[dict[str, Any], list[Tensor]]:
    """A surgery as plain data and marks.

    Args:
        surgery: What was cut.

    Returns:
        Lists, dicts, strings and numbers, ready for JSON; and boolean vectors of kept places, to
            which they refer by number: coupled dims share one.
    """
    marks: list[Tensor] = []
    numbers: dict[tuple[int, ...], int] = {}

    def number(places: Tensor | None) -> int | None:
        if places is None:
            return None
        key = tuple(places.tolist())
        if key not in numbers:
            numbers[key] = len(marks)
            mark = torch.zeros(max(key, default=-1) + 1, dtype=torch.bool)
            mark[list(key)] = True
            marks.append(mark)
        return numbers[key]

    kept = {name: [number(places) for places in dims] for name, dims in surgery.kept.items()}
    plain = {"kept": kept, "attributes": dict(surgery.attributes), "biases": list(surgery.biases)}
    return plain, marks


def read_surgery(description: Mapping[str, Any], marks: Sequence[Tensor]) -> Surgery:
    """Inverse of `described`.

    Args:
        description: The plain data, from a file.
        marks: Boolean vectors of kept places.

    Returns:
        The surgery.

    Raises:
        ArtifactError: If the description is not one of a surgery.
    """
    places = [mark.nonzero().flatten() for mark in marks]
    kept = {}
    for name, numbers in description["kept"].items():
        if any(n is not None and (type(n) is not int or not 0 <= n < len(places)) for n in numbers):
            raise ArtifactError("the file refers to places that it does not have", given=name)
        kept[name] = tuple(None if n is None else places[n] for n in numbers)
    attributes, biases = description["attributes"], description["biases"]
    if not all(type(value) is int and value > 0 for value in attributes.values()):
        raise ArtifactError("the file has an attribute that is no positive whole number")
    if not all(isinstance(name, str) and name.endswith("bias") for name in biases):
        raise ArtifactError("the file adds a parameter that is no bias", given=biases)
    return Surgery(kept, dict(attributes), tuple(biases))


def filled(net: nn.Module, surgery: Surgery, state: Mapping[str, Tensor]) -> nn.Module:
    """Cuts a copy of a network and gives it the tensors of a file.

    Args:
        net: An instance of the class whose network was saved, with the sizes that it had before it
            was cut; it is not touched.
        surgery: What was cut.
        state: First name to tensor, as from `own_tensors`.

    Returns:
        The network in evaluation mode.

    Raises:
        ArtifactError: If the surgery would set what is no number of the network.
        ShapeError: If the network does not have the tensors of the file.
    """
    for name in surgery.attributes:
        path, _, attribute = name.rpartition(".")
        holder = dict(net.named_modules()).get(path)
        if attribute.startswith("_") or type(getattr(holder, attribute, None)) is not int:
            raise ArtifactError("the file would set what is no number of the network", given=name)
    try:
        result = surgery.apply(net)
    except ShapeError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ArtifactError(f"the network cannot be cut as the file says: {error}") from error
    own = own_tensors(result)
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in own.items()}
    if shapes != {name: (tensor.dtype, tensor.shape) for name, tensor in state.items()}:
        differing = [n for n in own.keys() | state.keys() if shapes.get(n) != _form(state.get(n))]
        raise ShapeError(
            "the network is not one of the class and sizes that the file was written from",
            given=type(net).__name__,
            accepted=f"one that agrees in {', '.join(sorted(differing))}",
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
    return result


def _form(tensor: Tensor | None) -> tuple[torch.dtype, torch.Size] | None:
    return None if tensor is None else (tensor.dtype, tensor.shape)
