"""On what a report was made; nothing that names a person, a machine or a place."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping

import torch

_PACKAGES = ("pyro-turbovbi", "torch", "pyro-ppl", "numpy")


def environment() -> Mapping[str, str]:
    """Versions and processors, in words by what they are of."""
    gpu = {"GPU": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        **{name: _version(name) for name in _PACKAGES},
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": f"{os.cpu_count()}, {torch.get_num_threads()} threads used",
        **gpu,
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed as a package"


__all__ = ["environment"]
