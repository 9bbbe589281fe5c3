"""Files of the galleries and of the tools, loaded by path as the command line does it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def files(gallery: str) -> list[str]:
    """Names of the files of a gallery, in order."""
    return sorted(p.stem for p in (ROOT / gallery).glob("*.py") if p.stem != "__init__")


def load(folder: str, name: str) -> ModuleType:
    """One file of a folder as a module of its own."""
    path = ROOT / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{folder}_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for the module of their annotations
    spec.loader.exec_module(module)
    return module
