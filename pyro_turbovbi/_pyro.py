"""The few places where we lean on Pyro's machinery rather than on its public verbs."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.distributions import constraints


@contextmanager
def buffers_kept(model: object) -> Iterator[None]:
    """Context in which running a module leaves its buffers as they were.

    Looking at a model to find its sites must not count as training its batch statistics.
    """
    buffers = list(model.buffers()) if isinstance(model, nn.Module) else []
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.data.copy_(value)


def of_distribution(error: ValueError) -> bool:
    """Whether a distribution refuses its parameters: of a finite model, they are not finite."""
    return "satisfy the constraint" in str(error)


def local_param(name: str, parameter: nn.Parameter) -> Tensor:
    """Emit a Pyro param site whose value is `parameter` itself.

    Stock engines find and train it, and nothing enters Pyro's global param store, where two models
    with equal names would silently share it.
    """
    # Stock SVI asks a param site for its unconstrained leaf; a weak reference avoids a cycle.
    parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
    return _param(name, parameter, name=name, constraint=constraints.real)  # type: ignore[no-any-return]


def _same(_name: str, parameter: nn.Parameter, **_kwargs: object) -> Tensor:
    return parameter


_param: Any = effectful(_same, type="param")
