"""The few places where we lean on Pyro's machinery rather than on its public verbs."""

from __future__ import annotations

import weakref

from pyro.poutine.runtime import effectful
from torch import Tensor, nn


def local_param(name: str, parameter: nn.Parameter) -> Tensor:
    """Emit a Pyro param site whose value is `parameter` itself.

    Stock engines find and train it, and nothing enters Pyro's global param store, where two models with equal names
    would silently share it.
    """
    # Stock SVI asks each param site for its unconstrained leaf; a weak reference avoids a cycle on the parameter.
    parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
    emit = effectful(lambda *_args, **_kwargs: parameter, type="param")
    return emit(name, name=name)
