"""Guides that are functions: each training has the parameters of its own one for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro


class FunctionGuide:
    """A guide that is no module, with a parameter store of its own.

    Pyro keeps the parameters of functions in one global store by name, where a second training
    would find those of the first one and train them further.

    Args:
        guide: The guide.
    """

    def __init__(self, guide: Callable[..., Any]) -> None:
        self.guide = guide
        self.store: Any = {"params": {}, "constraints": {}}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the guide; see `own_parameters`."""
        return self.guide(*args, **kwargs)

    def __repr__(self) -> str:
        """That of the guide."""
        return repr(self.guide)


@contextmanager
def own_parameters(guide: Callable[..., Any]) -> Iterator[None]:
    """Context in which Pyro runs a guide and finds its parameters, and no others.

    Those of modules are local to them; a `FunctionGuide` has a store.
    """
    with pyro.settings.context(module_local_params=True):
        if not isinstance(guide, FunctionGuide):
            yield
            return
        with pyro.get_param_store().scope(guide.store):
            yield


__all__ = ["FunctionGuide", "own_parameters"]
