"""Code by its address: nothing happens before `build`."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pyro_turbovbi.errors import InvalidArgumentError, SpecError
from pyro_turbovbi.specs.calls import Call, Function, is_file, rebase, resolve, split_address

MODULE = """
from dataclasses import dataclass

@dataclass
class Pair:
    a: int
    b: "int" = 2

    @classmethod
    def twice(cls, a):
        return cls(a, a)

NUMBER = 3
raise_at_import = False
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    path = tmp_path / "my module.py"
    path.write_text(MODULE)
    return str(path)


def test_calls_of_modules() -> None:
    assert Call("collections:OrderedDict", {"a": 1}).build() == OrderedDict(a=1)
    assert Call("math:hypot", [3, 4.0]).build() == 5.0
    assert Call("collections:OrderedDict.fromkeys", ["ab"]).build() == OrderedDict(a=None, b=None)
    assert Function("torch.nn:Linear").build() is nn.Linear


def test_nested_calls() -> None:
    layers = [
        {"call": "torch.nn:Linear", "arguments": {"in_features": 2, "out_features": 3}},
        {"call": "torch.nn:ReLU"},
    ]
    net = Call("torch.nn:Sequential", layers).build()
    assert isinstance(net[0], nn.Linear)
    assert isinstance(net[1], nn.ReLU)
    table = Call("builtins:dict", {"f": {"function": "math:sqrt"}, "x": {"y": [None]}}).build()
    assert table["f"](4.0) == 2.0
    assert table["x"] == {"y": [None]}


def test_calls_of_files(module: str) -> None:
    pair = Call(f"{module}:Pair", {"a": 1}).build()
    assert (pair.a, pair.b) == (1, 2)
    assert Call(f"{module}:Pair.twice", [5]).build().b == 5


def test_nothing_is_imported_or_run_before(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("raise RuntimeError('run')\ndef f(): ...\n")
    call = Call(f"{path}:f", [{"call": "no_such_module:f"}])
    assert repr(call)
    assert "antigravity" not in sys.modules
    Function("antigravity:f")
    assert "antigravity" not in sys.modules
    with pytest.raises(RuntimeError, match="run"):
        Function(f"{path}:f").build()


@pytest.mark.parametrize(
    "address",
    [
        *("", "math", "math.sqrt", ":sqrt", "math:", "math:sqrt()", "a b:c", "a:b:c", "1a:b"),
        *("a..b:c", "__import__('os'):system", "file.py:", "file.py", "a:b\n"),
    ],
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match="this is no address of a function"):
        Call(address)
    with pytest.raises(
        SpecError, match=r"'package.module:function' or 'path/to/file\.py:function'"
    ):
        Function(address)


def test_addresses() -> None:
    assert split_address("a.b:c.d") == ("a.b", "c.d")
    assert split_address("C:\\my file.py:f") == ("C:\\my file.py", "f")
    assert is_file("x.py:f")
    assert not is_file("x.pyc:f")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("no_such_module:f", "a module cannot be imported; given: no_such_module"),
        ("math.nothing:f", "a module cannot be imported; given: math.nothing"),
        ("math:nothing", "math has no nothing; given: math:nothing; accepted: "),
        ("math:pi", "math:pi cannot be called; given: 3.14"),
        ("nowhere/file.py:f", "a file with code is not there; given: nowhere/file.py"),
    ],
)
def test_what_is_not_there(address: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        resolve(address)
    assert message in str(error.value)


def test_only_callables(module: str) -> None:
    with pytest.raises(SpecError, match=r"module.py has no Nothing; .* accepted: dataclass, Pair"):
        resolve(f"{module}:Nothing")
    with pytest.raises(SpecError, match="cannot be called"):
        resolve(f"{module}:NUMBER")


def test_a_module_that_lacks_another_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        resolve("needs_more:f")


def test_arguments_are_checked_before_the_call() -> None:
    with pytest.raises(SpecError, match=r"torch.nn:Linear does not take these arguments; given: "):
        Call("torch.nn:Linear", {"in_feature": 3}).build()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (3, "arguments are of the wrong type; given: 3"),
        ("ab", "arguments are of the wrong type"),
        ([object()], "arguments are plain data"),
        ({"a": {1: 2}}, "arguments are plain data"),
        ([{"call": 3}], "this is no address of a function; given: 3"),
        ([{"call": "nothing"}], "this is no address of a function; given: nothing"),
        ([{"call": "a:b", "argument": []}], "arguments hold an unknown key; given: argument"),
        ([{"function": "a:b", "arguments": []}], "arguments hold an unknown key; given: arguments"),
    ],
)
def test_arguments_are_plain_data(arguments: Any, message: str) -> None:
    with pytest.raises(SpecError) as error:
        Call("a:b", arguments)
    assert message in str(error.value)


def test_rebase_moves_files_alone() -> None:
    data = {
        "net": {"call": "x.py:f", "arguments": ({"function": "y.py:g"}, "z.py:h", None)},
        "data": {"call": "a.b:c"},
        "n": 1,
    }
    assert rebase(data, lambda path: f"/at/{path}") == {
        "net": {"call": "/at/x.py:f", "arguments": [{"function": "/at/y.py:g"}, "z.py:h", None]},
        "data": {"call": "a.b:c"},
        "n": 1,
    }
    assert data["net"]["call"] == "x.py:f", "a copy"  # type: ignore[index]
