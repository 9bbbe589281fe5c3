"""Changes of single values: the key is the one that error messages show."""

from __future__ import annotations

from typing import Any

import pytest

from pyro_turbovbi.errors import SpecError
from pyro_turbovbi.specs.changes import changed, key_path, parse_change
from pyro_turbovbi.specs.documents import Document, KeyPath, parse_yaml, show


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("epochs=3", ("epochs",), 3),
        ("engine.lr=1e-3", ("engine", "lr"), 1e-3),
        ("net.arguments[0]=64", ("net", "arguments", 0), 64),
        ('prior.sites["0.weight"].scale=0.1', ("prior", "sites", "0.weight", "scale"), 0.1),
        ('prior.sites["a=b"]=null', ("prior", "sites", "a=b"), None),
        ("data={kind: digits, seed: 1}", ("data",), {"kind": "digits", "seed": 1}),
        ("a=b=c", ("a",), "b=c"),
        ("a=", ("a",), None),
    ],
)
def test_key_and_value(text: str, path: KeyPath, value: Any) -> None:
    assert parse_change(text) == (path, value)


@pytest.mark.parametrize("text", ["epochs", "=3", "a..b=1", ".a=1", "a[x]=1", "a b=1", "a.0=1"])
def test_what_is_no_change(text: str) -> None:
    with pytest.raises(
        SpecError, match=r"^this is no change of a setting; given: .*key=value, such"
    ):
        parse_change(text)


def test_a_value_that_is_no_yaml() -> None:
    with pytest.raises(SpecError, match=r"the value of a.b, line 1 is not valid YAML"):
        parse_change("a.b={c")


@pytest.mark.parametrize("path", [("a",), ("a", "b_c", 0, "d-e"), ("sites", "0.weight", "*.b", 12)])
def test_keys_are_read_as_they_are_shown(path: KeyPath) -> None:
    assert key_path(show(path)) == path


def test_a_change_makes_a_copy_and_what_leads_to_it() -> None:
    document = parse_yaml("a: {b: 1, c: [1, {d: 2}]}\ne: null", "here.yaml")
    changes: dict[KeyPath, Any] = {("a", "c", 1, "d"): 3, ("e", "f", "g"): 4, ("a", "b"): 5}
    result = changed(document, changes)
    assert result.data == {"a": {"b": 5, "c": [1, {"d": 3}]}, "e": {"f": {"g": 4}}}
    assert document.data == {"a": {"b": 1, "c": [1, {"d": 2}]}, "e": None}
    assert result.source == "here.yaml"
    assert result.line_of(("a", "c")) == 1
    assert result.elsewhere == tuple(changes), "these values are not from the file"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("a", "b"), "there is no a.b; given: 1; accepted: another value for a itself"),
        (("c", 2), r"there is no c\[2\]; given: a list of 2; accepted: an item of a list"),
        (("a", 0), r"there is no a\[0\]; given: 1; accepted: an item of a list"),
        (("c", "x"), r"there is no c.x; given: \[1, 2\]; accepted: another value for c itself"),
    ],
)
def test_ways_that_lead_nowhere(path: KeyPath, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        changed(Document({"a": 1, "c": [1, 2]}), {path: 0})
