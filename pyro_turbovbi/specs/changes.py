"""Single values of a specification by their keys, as `key=value` on a command line writes them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from pyro_turbovbi.errors import SpecError
from pyro_turbovbi.specs.documents import Document, KeyPath, parse_yaml, show

#: One step of a key path: a name, an index, or a name in quotes.
_STEP = re.compile(r'(?:^|(?<=.)\.)([A-Za-z_][\w-]*)|\[(\d+)\]|\["([^"]*)"\]')
_FORM = 'key=value, such as engine.lr=0.004, net.arguments[0]=64 or prior.sites["0.weight"].scale=1'


def parse_change(text: str) -> tuple[KeyPath, Any]:
    """Read `key=value`; the inverse of `show` for the key, YAML for the value.

    Raises:
        SpecError: If it has another form.
    """
    # an equals sign may stand in a key in quotes
    found = re.fullmatch(r'((?:\["[^"]*"\]|[^="])+)=(.*)', text, re.DOTALL)
    path = key_path(found[1].strip()) if found else None
    if found is None or path is None:
        raise SpecError("this is no change of a setting", given=text, accepted=_FORM)
    return path, parse_yaml(found[2], f"the value of {found[1].strip()}").data


def key_path(text: str) -> KeyPath | None:
    """The steps of a key as `show` writes it; None if it is none."""
    steps, end = [], 0
    while end < len(text):
        step = _STEP.match(text, end)
        if step is None:
            return None
        name, index, quoted = step.groups()
        steps.append(int(index) if index is not None else name if name is not None else quoted)
        end = step.end()
    return tuple(steps) or None


def changed(document: Document, changes: Mapping[KeyPath, Any]) -> Document:
    """A document with other values at some keys; mappings on the way are made if need be.

    Args:
        document: It stays as it is.
        changes: Values by key path, taken in order.

    Raises:
        SpecError: If a key leads through a value that has no keys, or past the end of a list.
    """
    data = document.data
    for path, value in changes.items():
        data = _with(data, path, value, ())
    return dataclasses.replace(document, data=data, elsewhere=(*document.elsewhere, *changes))


def _with(data: Any, rest: KeyPath, value: Any, done: KeyPath) -> Any:
    """A copy of plain data with another value at the end of a path."""
    if not rest:
        return value
    step, *further = rest
    here = (*done, step)
    if isinstance(step, int):
        if not isinstance(data, list | tuple) or step >= len(data):
            given = f"a list of {len(data)}" if isinstance(data, list | tuple) else data
            raise SpecError(f"there is no {show(here)}", given=given, accepted="an item of a list")
        items = list(data)
        items[step] = _with(items[step], tuple(further), value, here)
        return items
    if data is not None and not isinstance(data, Mapping):
        accepted = f"another value for {show(done)} itself" if done else "a mapping"
        raise SpecError(f"there is no {show(here)}", given=data, accepted=accepted)
    known = {} if data is None else dict(data)
    return {**known, step: _with(known.get(step), tuple(further), value, here)}


__all__ = ["changed", "key_path", "parse_change"]
