"""Code that a specification names: `module:function` or `file.py:function`, called only on demand.

Making and printing a `Call` imports nothing; `build` imports the module or runs the file.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_turbovbi.errors import SpecError
from pyro_turbovbi.specs.families import Family, Raw

_NAME = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_FORMS = "'package.module:function' or 'path/to/file.py:function'"


@dataclass(frozen=True)
class Function:
    """A function or class by its address.

    Attributes:
        function: `module:name` or `file.py:name`; the name may be dotted.

    Raises:
        SpecError: If the address has another form.
    """

    function: str

    def __post_init__(self) -> None:
        split_address(self.function)

    def build(self) -> Callable[..., Any]:
        """Import it.

        Raises:
            SpecError: If it is not there or cannot be called.
        """
        return resolve(self.function)


@dataclass(frozen=True)
class Call:
    """A function or class by its address, and the arguments to call it with.

    Attributes:
        call: See `Function.function`.
        arguments: Plain data: a mapping of keyword arguments or a list of positional ones. Inside
            of it, a mapping with `call` or `function` stands for what that gives.

    Raises:
        SpecError: If the address has another form, or the arguments are no plain data.
    """

    call: str
    arguments: Raw = field(default_factory=dict)

    def __post_init__(self) -> None:
        split_address(self.call)
        if not isinstance(self.arguments, Mapping | list | tuple):
            raise SpecError(
                "arguments are of the wrong type",
                given=self.arguments,
                accepted="a mapping of keyword arguments or a list of positional ones",
            )
        _nested(self.arguments)  # looks at everything inside

    def build(self) -> Any:
        """Import the function and call it.

        Raises:
            SpecError: If it is not there, cannot be called or does not take the arguments.
        """
        function, arguments = resolve(self.call), _built(_nested(self.arguments))
        args, kwargs = ([], arguments) if isinstance(arguments, dict) else (arguments, {})
        _check_arguments(self.call, function, args, kwargs)
        return function(*args, **kwargs)


#: What stands for an object that plain data cannot give.
IMPORTED = Family("a reference to code", members={}, implied={"call": Call, "function": Function})


def split_address(address: str) -> tuple[str, str]:
    """Module or file, and name in it.

    Raises:
        SpecError: If the address has another form.
    """
    place, colon, name = address.rpartition(":")
    is_place = is_file(address) or re.fullmatch(_NAME, place)
    if not colon or not is_place or not re.fullmatch(_NAME, name):
        raise SpecError("this is no address of a function", given=address, accepted=_FORMS)
    return place, name


def is_file(address: str) -> bool:
    """Whether an address leads to a file rather than to an importable module."""
    return address.rpartition(":")[0].endswith(".py")


def resolve(address: str) -> Callable[..., Any]:
    """Import the function or class at an address; a file is run.

    Raises:
        SpecError: If there is none, or it cannot be called.
    """
    place, name = split_address(address)
    found: Any = _run_file(Path(place)) if is_file(address) else _import(place)
    for part in name.split("."):
        if not hasattr(found, part):
            raise SpecError(
                f"{place} has no {name}",
                given=address,
                accepted=[n for n, v in vars(found).items() if callable(v) and n[0] != "_"],
            )
        found = getattr(found, part)
    if not callable(found):
        raise SpecError(f"{address} cannot be called", given=found, accepted="a function or class")
    return found  # type: ignore[no-any-return]


def rebase(value: Any, move: Callable[[str], str]) -> Any:
    """A copy of plain data with the path of every file in it replaced; tuples become lists.

    Args:
        value: Plain data.
        move: The new path of a file.
    """
    if isinstance(value, Mapping):
        return {key: _moved(key, item, move) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rebase(item, move) for item in value]
    return value


def _moved(key: str, value: Any, move: Callable[[str], str]) -> Any:
    if key in IMPORTED.implied and isinstance(value, str) and is_file(value):
        place, _, name = value.rpartition(":")
        return f"{move(place)}:{name}"
    return rebase(value, move)


def _nested(value: Any) -> Any:
    """Plain data with calls and functions in place of the mappings that describe them."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_nested(item) for item in value]
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise SpecError(
            "arguments are plain data",
            given=value,
            accepted="numbers, strings, booleans, null, and lists and mappings of them",
        )
    for key, imported in IMPORTED.implied.items():
        if key in value:
            return _reference(imported, value)
    return {key: _nested(item) for key, item in value.items()}


def _reference(imported: Callable[..., Any], value: Mapping[str, Any]) -> Any:
    names = list(inspect.signature(imported).parameters)
    if unknown := [key for key in value if key not in names]:
        raise SpecError("arguments hold an unknown key", given=unknown[0], accepted=names)
    if not isinstance(value[names[0]], str):
        raise SpecError("this is no address of a function", given=value[names[0]], accepted=_FORMS)
    return imported(**value)


def _built(value: Any) -> Any:
    if isinstance(value, Call | Function):
        return value.build()
    if isinstance(value, dict):
        return {key: _built(item) for key, item in value.items()}
    return [_built(item) for item in value] if isinstance(value, list) else value


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # found, but it lacks something itself
        raise SpecError("a module cannot be imported", given=name, accepted=_FORMS) from error


def _run_file(path: Path) -> Any:
    if not path.is_file():
        raise SpecError(
            "a file with code is not there",
            given=str(path),
            accepted="a path relative to the recipe's file, or an absolute one",
        )
    # Known by a name, as dataclasses look their module up.
    name = f"_{path.stem}_{zlib.crc32(str(path.absolute()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_arguments(
    address: str, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C, without a signature
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = f"{error}"
        raise SpecError(
            f"{address} does not take these arguments", given=given, accepted=str(signature)
        ) from error
