"""What makes two trainings the same one: plain text by aspect, to be compared and shown."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from functools import partial
from numbers import Number
from typing import Any

from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import nn

from pyro_turbovbi.training import start_digest

#: Text by aspect of a training: engine, prior, data, ...
Identity = dict[str, str]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_SHOWN = 60


def described(value: object) -> str:
    """A value as text that is the same in another process, with all digits of its numbers.

    Dataclasses are described by their fields; functions and objects that are neither plain data nor
    modules by their names.
    """
    if value is None or isinstance(value, bool | Number | str):
        return repr(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return f"{_name(type(value))}({_listed(fields)})"
    if isinstance(value, Mapping):
        return f"{{{_listed(value)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(described, value))}]"
    if isinstance(value, partial):
        return f"{described(value.func)}({_listed(value.keywords)})"
    if isinstance(value, ELBO):
        return f"{_name(type(value))}(num_particles={value.num_particles})"
    if isinstance(value, PyroOptim):
        arguments = [value.pt_optim_args, *filter(None, [value.pt_clip_args])]
        return f"{_name(value.pt_optim_constructor)}({', '.join(map(described, arguments))})"
    if isinstance(value, nn.Module):
        return f"{_name(type(value))}: {_ADDRESS.sub('', repr(value))}"
    return _name(value if hasattr(value, "__qualname__") else type(value))


def described_at_start(module: nn.Module) -> str:
    """A module before it is trained: its class, its settings, and a digest of its tensors.

    Settings are the attributes that have the names of its class's arguments.
    """
    names = inspect.signature(type(module)).parameters
    settings = {name: getattr(module, name) for name in names if hasattr(module, name)}
    return f"{_name(type(module))}({_listed(settings)}), {start_digest(module)}"


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """The aspects in which a training differs from a stored one, in words; empty if in none."""
    differing = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    return "; ".join(
        f"{key}: {_excerpt(here.get(key, 'none'), there.get(key, 'none'))}, in the checkpoint "
        f"{_excerpt(there.get(key, 'none'), here.get(key, 'none'))}"
        for key in differing
    )


def _listed(values: Mapping[Any, object]) -> str:
    return ", ".join(f"{key}={described(value)}" for key, value in values.items())


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _excerpt(text: str, other: str) -> str:
    """Of a long text, the part around the first place where another differs."""
    if len(text) <= _SHOWN:
        return text
    place = next((i for i, (a, b) in enumerate(zip(text, other)) if a != b), len(other))  # noqa: B905
    start = max(0, place - _SHOWN // 2)
    return f"...{text[start : start + _SHOWN]}..."
