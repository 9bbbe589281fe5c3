"""Specification files: plain data out of YAML and TOML, with the line of every key.

YAML is read by the core schema of version 1.2: `1e-3` is a number, `no` and `12:30` are strings,
and nothing but plain data can come out of a file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pyro_turbovbi.errors import SpecError

#: The way to a value: keys of mappings and indices of lists.
KeyPath = tuple[str | int, ...]
SUFFIXES = (".yaml", ".yml", ".toml")

_TAG = "tag:yaml.org,2002:"
_NUMERALS = list("-+0123456789")
#: Implicit tags of the YAML 1.2 core schema: pattern and possible first characters.
_CORE_TAGS: tuple[tuple[str, str, list[str]], ...] = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", _NUMERALS),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*_NUMERALS, "."],
    ),
)


class _Loader(yaml.SafeLoader):
    """Only composes nodes; knows the core schema alone."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own way)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that version 1.1 or 1.2 would read as something else."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: list(resolvers)
        for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _CORE_TAGS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


@dataclass(frozen=True)
class Document:
    """Plain data and where it stands.

    Attributes:
        data: Mappings with string keys, lists, strings, numbers, booleans and None (and, from TOML,
            dates and times).
        source: Name of the file; None for data that was handed over in Python.
        line_of: The 1-based line of a key; None where it is not known.
        elsewhere: Keys whose values are not from the source.
    """

    data: Any
    source: str | None = None
    line_of: Callable[[KeyPath], int | None] = lambda path: None
    elsewhere: tuple[KeyPath, ...] = ()


def read(path: str | os.PathLike[str]) -> Document:
    """Read a file, by its suffix as YAML or TOML.

    Args:
        path: The file.

    Returns:
        Its data, with the lines of the keys.

    Raises:
        SpecError: If the file is missing, has another suffix or cannot be parsed.
    """
    path = Path(path)
    parse = _parse_toml if _suffix(path) == ".toml" else parse_yaml
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path} cannot be read",
            given=getattr(error, "strerror", None) or str(error),
            accepted="a text file in UTF-8",
        ) from error
    return parse(text, str(path))


def write(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write plain data to a file, by its suffix as YAML or TOML.

    Args:
        path: The file; it is replaced if it exists.
        data: What `read` gives back.

    Raises:
        SpecError: If the suffix is another one, the file cannot be written, or TOML cannot hold
            the data (it has no null).
    """
    path = Path(path)
    text = _dump_toml(path, data) if _suffix(path) == ".toml" else _dump_yaml(data)
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise SpecError(f"{path} cannot be written", given=error.strerror) from error


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise SpecError(
            "the format of a specification file is not known by its suffix",
            given=str(path),
            accepted=SUFFIXES,
        )
    return suffix


# YAML ------------------------------------------------------------------------------------------


def _dump_yaml(data: Mapping[str, Any]) -> str:
    text: str = yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )
    return text


def parse_yaml(text: str, source: str) -> Document:
    """Plain data from YAML.

    Args:
        text: The text of a file.
        source: What errors call it.

    Raises:
        SpecError: If it is no valid YAML, or holds more than plain data.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        given = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"{source}{where} is not valid YAML", given=given) from error
    except yaml.YAMLError as error:
        raise SpecError(
            f"{source} is not valid YAML", given=" ".join(str(error).split())
        ) from error
    reader = _YamlReader(source)
    data = None if node is None else reader.value(node, ())
    return Document(data, source, reader.lines.get)


class _YamlReader:
    """Plain data from YAML nodes; keeps the line of every key."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[KeyPath, int] = {}
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self._open:
            where = f"{self.source}, line {self.lines[path]}"  # the node's own is the anchor's
            raise SpecError(f"{where}: an alias leads back to what contains it")
        self._open.add(id(node))
        try:
            return self._value(node, path)
        finally:
            self._open.discard(id(node))

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            try:
                return _SCALARS[kind](node.value)
            except ValueError as error:
                given = f"no {kind}: {node.value!r}"
                raise self._refusal(node, given, "a value of that type") from error
        accepted = "mappings, lists, strings, numbers, true, false and null"
        raise self._refusal(node, f"the tag {node.tag}", accepted)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._refusal(key_node, "a key that is no string", "a string")
            key = key_node.value  # as written: the pattern 0 is the string "0"
            if key in result:
                raise self._refusal(key_node, f"the key {key!r} twice", "every key once")
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, (*path, key))
        return result

    def _refusal(self, node: yaml.Node, given: str, accepted: str) -> SpecError:
        where = f"{self.source}, line {node.start_mark.line + 1}"
        return SpecError(f"{where} holds no plain data", given=given, accepted=accepted)


def _integer(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(text: str) -> float:
    bare = text.lower().replace(".inf", "inf").replace(".nan", "nan")
    return float(bare)


_SCALARS: dict[str, Callable[[str], Hashable]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": _integer,
    "float": _float,
    "str": str,
}


# TOML ------------------------------------------------------------------------------------------


def _dump_toml(path: Path, data: Mapping[str, Any]) -> str:
    import tomli_w

    if (null := _find_null(data, ())) is not None:
        raise SpecError(
            f"TOML has no null, and {show(null)} is None",
            given=str(path),
            accepted="a file that ends in .yaml, or another value",
        )
    return tomli_w.dumps(data)


def _find_null(value: Any, path: KeyPath) -> KeyPath | None:
    if value is None:
        return path
    items: Sequence[tuple[str | int, Any]] = ()
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    found = (_find_null(item, (*path, key)) for key, item in items)
    return next((null for null in found if null is not None), None)


def _parse_toml(text: str, source: str) -> Document:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = re.fullmatch(r"(.*) \(at line (\d+), column \d+\)", str(error))
        where = f", line {message[2]}" if message else ""
        given = message[1] if message else str(error)
        raise SpecError(f"{source}{where} is not valid TOML", given=given) from error
    return Document(data, source, lambda path: _toml_line(text, path))


def _toml_line(text: str, path: KeyPath) -> int | None:
    """Line on which the statement begins that first defines a key.

    `tomllib` keeps no positions, so it is asked for the shortest beginning of the text that is a
    document with that key: the statement is what this beginning has more than the one before.
    """
    lines = [f"{line}\n" for line in text.split("\n")]
    before = 0
    for end in range(1, len(lines) + 1):
        try:
            data = tomllib.loads("".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue  # inside of a value that spans lines
        if _has(data, path):
            statement = (i for i in range(before, end) if _is_code(lines[i]))
            return next(statement, end - 1) + 1
        before = end
    return None


def _is_code(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _has(data: Any, path: KeyPath) -> bool:
    for key in path:
        if isinstance(data, Mapping) and key in data:
            data = data[str(key)]
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            return False
    return True


# -----------------------------------------------------------------------------------------------


def show(path: KeyPath) -> str:
    """A key path as text: `prior.sites["*.bias"].scale`, `arguments[0]`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        elif re.fullmatch(r"[\w-]+", key):
            text += f".{key}" if text else key
        else:
            text += f'["{key}"]'
    return text
