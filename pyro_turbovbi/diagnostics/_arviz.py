"""The one place that imports ArviZ, and that knows how its versions differ."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Arrays by name of the variable.
Group = Mapping[str, Any]


@dataclass(frozen=True)
class Groups:
    """What becomes an `InferenceData` (ArviZ 0.x) or a `DataTree` (ArviZ 1.x).

    Attributes:
        data: Variables of every group, by name of the group. Posterior draws are arrays
            `[chain, draw, ...]`, data is without these two dimensions.
        coords: Coordinate values by name of the dimension.
        dims: Names of the dimensions of a variable, without chain and draw.
        attrs: Attributes of the whole.
    """

    data: Mapping[str, Group]
    coords: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    dims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)


def import_arviz() -> Any:
    """The module `arviz`, without the announcement that it makes on its first import of a day."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", category=FutureWarning)
        return importlib.import_module("arviz")


def from_groups(groups: Groups, arviz: Any) -> Any:
    """Hand the groups to `arviz.from_dict`, in the shape that its version wants.

    0.x takes one keyword a group and attributes of the whole; 1.x takes one nested dictionary and
    attributes by group, those of the whole under "/".

    Args:
        groups: What to hand over.
        arviz: The module.
    """
    data = {name: dict(variables) for name, variables in groups.data.items()}
    shared: dict[str, Any] = {
        "coords": {name: list(values) for name, values in groups.coords.items()},
        "dims": {name: list(names) for name, names in groups.dims.items()},
    }
    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.from_dict(data, attrs={"/": dict(groups.attrs)}, **shared)
    return arviz.from_dict(**data, attrs=dict(groups.attrs), **shared)
