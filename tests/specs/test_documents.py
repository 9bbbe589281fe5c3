"""Files of plain data: what goes in comes out, and every key knows its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_turbovbi.errors import InvalidArgumentError, SpecError
from pyro_turbovbi.specs.documents import KeyPath, read, show, write

# Controls and lone surrogates are no text that a person writes into a file.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]), max_size=12)
YAML_WORDS = ["", "no", "on", "null", "~", "1e-3", "1_0", "0o7", "0x1f", "12:30", "010", ".inf"]
YAML_SIGNS = ["2020-01-01", "a: b", "# c", "- d", "*e", "&f", "!g", "<<", "=", "[", " x ", "'\""]
TRICKY = st.sampled_from([*YAML_WORDS, *YAML_SIGNS, "true", "\\", "\u2028"])
STRINGS = TEXT | TRICKY
NUMBERS = st.integers(-(2**80), 2**80) | st.floats(allow_nan=False)
PLAIN = st.recursive(
    STRINGS | NUMBERS | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=12,
)
WITH_NULL = st.recursive(
    st.none() | PLAIN, lambda inner: st.dictionaries(STRINGS, inner, max_size=3), max_leaves=6
)


def written(tmp_path: Path, suffix: str, text: str) -> Path:
    path = tmp_path / f"spec{suffix}"
    path.write_text(text, encoding="utf-8")
    return path


def same(a: Any, b: Any) -> bool:
    """Equal, with equal types inside: 1 is not true, nor 1.0."""
    return repr(a) == repr(b)


@given(data=st.dictionaries(STRINGS, WITH_NULL, max_size=4))
def test_yaml_gives_back_what_was_written(tmp_path_factory: Any, data: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("yaml") / "spec.yaml"
    write(path, data)
    assert same(read(path).data, data)


@given(data=st.dictionaries(STRINGS, PLAIN, max_size=4))
def test_toml_gives_back_what_was_written(tmp_path_factory: Any, data: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("toml") / "spec.toml"
    write(path, data)
    assert read(path).data == data  # in any order: TOML has single values before tables


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2E5", -2e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", 10),
        ("no", "no"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("True", True),
        ("", None),
        ("~", None),
        ("!!str 3", "3"),
        ("!!float 3", 3.0),
    ],
)
def test_scalars_of_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    data = read(written(tmp_path, ".yml", f"key: {text}\n")).data
    assert same(data, {"key": value})


YAML = """\
# a comment
kind: ThreeLayer

support: {kind: Chain,
          density: 0.1}
sites:
  "0.weight":
    - a
    - b: 1
again: &shared {x: 1}
twice: *shared
"""
TOML = """\
# a comment
kind = "ThreeLayer"

[support]
kind = "Chain"
# another comment
mean_run = [
    1.0,
    # 2.0,
    3.0,
]
text = \"\"\"
kind = no key
\"\"\"
[sites."0.weight"]
inline = { x = 1, y = [{ z = 2 }] }
"""


@pytest.mark.parametrize(
    ("suffix", "text", "path", "line"),
    [
        (".yaml", YAML, (), 2),
        (".yaml", YAML, ("kind",), 2),
        (".yaml", YAML, ("support",), 4),
        (".yaml", YAML, ("support", "density"), 5),
        (".yaml", YAML, ("sites", "0.weight"), 7),
        (".yaml", YAML, ("sites", "0.weight", 1), 9),
        (".yaml", YAML, ("sites", "0.weight", 1, "b"), 9),
        (".yaml", YAML, ("twice", "x"), 10),
        (".yaml", YAML, ("nothing",), None),
        (".toml", TOML, ("kind",), 2),
        (".toml", TOML, ("support",), 4),
        (".toml", TOML, ("support", "kind"), 5),
        (".toml", TOML, ("support", "mean_run"), 7),
        (".toml", TOML, ("support", "mean_run", 1), 7),  # where the statement begins
        (".toml", TOML, ("support", "text"), 12),
        (".toml", TOML, ("sites", "0.weight"), 15),
        (".toml", TOML, ("sites", "0.weight", "inline", "y", 0, "z"), 16),
        (".toml", TOML, ("support", "nothing"), None),
        (".toml", TOML, ("support", "mean_run", 7), None),
    ],
)
def test_lines(tmp_path: Path, suffix: str, text: str, path: KeyPath, line: int | None) -> None:
    assert read(written(tmp_path, suffix, text)).line_of(path) == line


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        (
            ".yaml",
            "a: [1,\nb: 2\n",
            "line 3 is not valid YAML; given: while parsing a flow",
        ),
        (".yaml", "a: 1\n\tb: 2\n", "line 2 is not valid YAML"),
        (".yaml", "a: \x07\n", "is not valid YAML"),
        (
            ".yaml",
            "a: 1\n---\nb: 2\n",
            "line 2 is not valid YAML; given: expected a single",
        ),
        (".yaml", "a: 1\nb: 2\na: 3\n", "line 3 holds no plain data; given: the key 'a' twice"),
        (".yaml", "a: 1\nb: !!python/object/apply:os.getcwd []\n", "line 2 holds no plain data"),
        (".yaml", "a: !mine 3\n", "given: the tag !mine"),
        (".yaml", "a: !!int x\n", "line 1 holds no plain data; given: no int: 'x'"),
        (".yaml", "? [1, 2]\n: 3\n", "given: a key that is no string"),
        (".yaml", "a: &b\n  c: *b\n", "line 2: an alias leads back to what contains it"),
        (".toml", "a = 1\nb = \n", "line 2 is not valid TOML; given: Invalid value"),
        (".toml", "a = 1\na = 2\n", "line 2 is not valid TOML; given: Cannot overwrite a value"),
        (".toml", 'a = "', "is not valid TOML"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, suffix: str, text: str, message: str) -> None:
    path = written(tmp_path, suffix, text)
    with pytest.raises(InvalidArgumentError) as error:
        read(path).line_of(("a",))
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none.yaml cannot be read; given: No such file"):
        read(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match=r"given: .*prior.json; accepted: .yaml, .yml, .toml"):
        read(tmp_path / "prior.json")
    with pytest.raises(SpecError, match="cannot be written; given: No such file"):
        write(tmp_path / "no" / "folder.yaml", {})
    (tmp_path / "latin.toml").write_bytes(b'a = "\xe4"')
    with pytest.raises(SpecError, match="accepted: a text file in UTF-8"):
        read(tmp_path / "latin.toml")


def test_toml_has_no_null(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"TOML has no null, and a\[1\].b is None"):
        write(tmp_path / "spec.toml", {"a": [1, {"b": None}]})
    assert not (tmp_path / "spec.toml").exists()


def test_empty_files(tmp_path: Path) -> None:
    assert read(written(tmp_path, ".yaml", "# nothing\n")).data is None
    assert read(written(tmp_path, ".toml", "")).data == {}


def test_paths_as_text() -> None:
    assert show(("prior", "sites", "*.bias", "scale")) == 'prior.sites["*.bias"].scale'
    assert show(("arguments", 0)) == "arguments[0]"
    assert show(("0.weight",)) == '["0.weight"]'
    assert show(()) == ""
