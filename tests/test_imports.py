"""What importing the package brings in, and what it leaves until it is needed."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_turbovbi

ROOT = Path(__file__).resolve().parents[1]
# Each of these costs a noticeable part of a second, and a training needs none of them.
HEAVY = (
    "arviz matplotlib numba onnx onnxruntime pandas pydantic scipy sklearn torchvision typer "
    "xarray yaml"
)


def run(program: str) -> str:
    """Output of a program that a fresh interpreter runs."""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_public_names_need_nothing_heavy() -> None:
    program = f"from pyro_turbovbi import {', '.join(pyro_turbovbi.__all__)}"
    listed = f"import sys; print(*sys.modules.keys() & set({[*HEAVY.split(), 'torch']}))"
    assert run(f"{program}\n{listed}").split() == ["torch"]


def test_the_command_line_is_there_without_torch() -> None:
    program = "from pyro_turbovbi.cli import main; main(['fit', '--help'])"
    done = run(program + "\nimport sys; print(*sys.modules.keys() & {'torch', 'pyro', 'numpy'})")
    assert done.startswith("Usage: ptv fit")
    assert done.endswith("\n\n"), "torch was imported"


def test_lazy_names_come_from_where_the_annotations_say() -> None:
    """Type checkers read the import statements, the interpreter the table."""
    tree = ast.parse(Path(pyro_turbovbi.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    modules = {name for name, home in declared.items() if home == "pyro_turbovbi"}
    homes = {name: f"pyro_turbovbi.{home}" for name, home in pyro_turbovbi._HOMES.items()}
    assert homes == {name: declared[name] for name in declared.keys() - modules}
    assert declared.keys() == set(pyro_turbovbi.__all__) == set(dir(pyro_turbovbi))


@pytest.mark.parametrize("name", ["fit", "lift"])
def test_functions_are_not_hidden_by_modules_of_their_name(name: str) -> None:
    module = importlib.import_module(f"pyro_turbovbi.{name}")
    setattr(pyro_turbovbi, name, module)  # what the import statement does
    assert getattr(pyro_turbovbi, name) is getattr(module, name)


def test_modules_are_attributes_and_nothing_else_is() -> None:
    assert pyro_turbovbi.data is importlib.import_module("pyro_turbovbi.data")
    with pytest.raises(AttributeError, match="module 'pyro_turbovbi' has no attribute 'fitt'"):
        _ = pyro_turbovbi.fitt


@pytest.mark.slow
def test_every_package_can_be_imported_first() -> None:
    """No part of the package counts on another one having been imported."""
    packages = [path.parent.name for path in (ROOT / "pyro_turbovbi").glob("*/__init__.py")]
    program = f"""
import importlib, sys, torch, pyro
for name in {sorted(packages)}:
    for old in [old for old in sys.modules if old.startswith("pyro_turbovbi")]:
        del sys.modules[old]
    importlib.import_module("pyro_turbovbi." + name)
    print(name)
"""
    assert run(program).split() == sorted(packages)
