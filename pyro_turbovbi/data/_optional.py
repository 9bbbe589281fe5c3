"""Packages that only some data sets need."""

from __future__ import annotations

import importlib
from typing import Any

from pyro_turbovbi.errors import UnsupportedError


def optional(
    module: str, problem: str, extra: str, *, given: str | None = None, instead: str = ""
) -> Any:
    """Imports a module that an extra of this package installs.

    Args:
        module: Its full name.
        problem: What the error says is wrong where it is absent.
        extra: Name of the extra.
        given: What needs it, for the error.
        instead: What can be done in the place of installing it, for the error.

    Raises:
        UnsupportedError: If it is not installed; says the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        accepted = f'pip install "pyro-turbovbi[{extra}]"{instead and f"; or {instead}"}'
        raise UnsupportedError(problem, given=given, accepted=accepted) from error


__all__ = ["optional"]
