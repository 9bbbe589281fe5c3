"""A likelihood as plain data: its class, its settings, and the noise that it learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_turbovbi import likelihoods
from pyro_turbovbi.errors import ArtifactError
from pyro_turbovbi.likelihoods import Likelihood
from pyro_turbovbi.specs.families import settings_of

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def storable(likelihood: Likelihood) -> bool:
    """Whether a likelihood is of this package: a file brings no code along."""
    cls = type(likelihood)
    return getattr(likelihoods, cls.__name__, None) is cls


def arguments_of(likelihood: Likelihood) -> dict[str, Any]:
    """What a likelihood of this package is made with, by name of the argument."""
    return {name: getattr(likelihood, name) for name in settings_of(type(likelihood))}


def made(kind: str, arguments: Mapping[str, Any]) -> Likelihood:
    """A likelihood of this package, whose noise is that of its arguments.

    Raises:
        ArtifactError: If there is none of that name.
    """
    cls = getattr(likelihoods, kind, None)
    if not (isinstance(cls, type) and issubclass(cls, Likelihood)):
        raise ArtifactError("the file has an unknown likelihood", given=kind)
    return cls(**arguments)


def to_plain(likelihood: Likelihood) -> dict[str, Any]:
    """A likelihood of this package as plain data for JSON, bit for bit.

    Args:
        likelihood: One that is `storable`.
    """
    state = {name: _plain(value) for name, value in likelihood.state_dict().items()}
    plain = {"arguments": arguments_of(likelihood), "state": state}
    return {"kind": type(likelihood).__name__} | {key: v for key, v in plain.items() if v}


def of_plain(plain: Mapping[str, Any]) -> Likelihood:
    """The inverse of `to_plain`, on the CPU.

    Raises:
        ArtifactError: If it is no likelihood of this package; other exceptions may come out of
            forged data.
    """
    likelihood = made(plain["kind"], plain.get("arguments", {}))
    state = {name: _tensor(*value) for name, value in plain.get("state", {}).items()}
    for name, value in likelihood.state_dict(keep_vars=True).items():
        value.data = value.data.to(state[name].dtype)
    likelihood.load_state_dict(state)
    return likelihood.requires_grad_(False)


def _plain(value: Tensor) -> list[Any]:
    return [str(value.dtype).removeprefix("torch."), value.tolist()]


def _tensor(dtype: str, value: Any) -> Tensor:
    return torch.tensor(value, dtype=_DTYPES[dtype])
