"""The few places where we lean on Pyro's machinery rather than on its public verbs."""

from __future__ import annotations

import weakref
from typing import Any

from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.distributions import constraints


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
