"""Schemas made from annotations: what they take, what they refuse and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

import pytest
import torch

from pyro_turbovbi.errors import InvalidArgumentError, SpecError
from pyro_turbovbi.specs.documents import Document
from pyro_turbovbi.specs.families import Adapter, Family, Raw, Vocabulary
from pyro_turbovbi.specs.schema import Schema


class Shape:
    """Annotates a choice."""


@dataclass(frozen=True)
class Point(Shape):
    pass


@dataclass(frozen=True)
class Circle(Shape):
    radius: float
    inner: Shape | None = None

    def __post_init__(self) -> None:
        if self.radius <= 0.0:
            raise InvalidArgumentError("the radius is too small", given=self.radius, accepted="> 0")


@dataclass(frozen=True)
class Style:
    copy: int = 1  # the name of a method of pydantic's models
    json: str = "a"


@dataclass(frozen=True)
class Everything:
    flag: bool = False
    whole: int = 1
    real: float = 1.0
    number: float | int = 1
    text: str = ""
    path: str | PathLike[str] | None = None
    choice: Literal["a", "b", 3] = "a"
    several: Sequence[float | int] = ()
    pair: tuple[int, float] = (1, 1.0)
    either: float | Sequence[float] = 1.0
    style: Style = field(default_factory=Style)
    shapes: Mapping[str, Shape | None] = field(default_factory=dict)
    z: complex | None = None
    raw: Raw = None


def make_complex(re: float, im: float = 0.0) -> complex:
    return complex(re, im)


SHAPES = Family("a shape", {"Point": Point, "Circle": Circle})
VOCABULARY = Vocabulary({Shape: SHAPES}, {complex: Adapter(make_complex, lambda z: {})})
SCHEMA = Schema(Everything, VOCABULARY)


def check(**data: Any) -> Everything:
    found = SCHEMA.check(Document(data))
    assert isinstance(found, Everything)
    return found


def test_defaults_are_those_of_the_class() -> None:
    assert check() == Everything()


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("flag", True, True),
        ("real", 2, 2.0),
        ("number", 2, 2.0),
        ("path", "here", "here"),
        ("path", None, None),
        ("choice", 3, 3),
        ("several", [1, 2.5], (1.0, 2.5)),
        ("pair", [1, 2], (1, 2.0)),
        ("either", [1.5], (1.5,)),
        ("style", {"copy": 3}, Style(copy=3)),
        ("shapes", {"*": None, "a": {"kind": "Point"}}, {"*": None, "a": Point()}),
        ("shapes", {"a": {"kind": "Circle", "radius": 1}}, {"a": Circle(1.0)}),
        ("z", {"re": 1}, 1 + 0j),
        ("raw", {"any": [{}]}, {"any": [{}]}),
    ],
)
def test_values_that_fit(name: str, given: Any, expected: Any) -> None:
    value = getattr(check(**{name: given}), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "accepted"),
    [
        ("flag", 1, "true or false"),
        ("flag", "true", "true or false"),
        ("whole", 1.0, "an integer"),
        ("whole", True, "an integer"),
        ("real", "1", "a number"),
        ("real", True, "a number"),
        ("real", None, "a number"),
        ("number", [], "a number"),
        ("text", 3, "a string"),
        ("path", 3, "a string or a path, or leave it out"),
        ("choice", "c", "'a' or 'b' or 3"),
        ("several", 1, "a list, each of them a number"),
        ("several", "12", "a list, each of them a number"),
        ("several", [1, "2"], "a list, each of them a number"),
        ("pair", [1], "a list of an integer, a number"),
        ("either", {}, "a number or a list, each of them a number"),
        ("style", 3, "a mapping"),
        ("shapes", [], "a mapping"),
        ("z", 3, "a mapping"),
    ],
)
def test_values_of_a_wrong_type(name: str, given: Any, accepted: str) -> None:
    with pytest.raises(SpecError) as error:
        check(**{name: given})
    shown = "null" if given is None else repr(given)
    expected = f"{name}: the value is of the wrong type; given: {shown}; accepted: {accepted}"
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"flga": True},
            "flga: Everything has no such setting (did you mean 'flag'?); given: True; accepted: ",
        ),
        ({"style": {"x": 1}}, "style.x: Style has no such setting; given: 1; accepted: copy, json"),
        ({"z": {}}, "z.re: complex needs it; given: {}; accepted: re, im"),
        (
            {"shapes": {"a.b": 3}},
            'shapes["a.b"]: this is not a shape; given: 3; accepted: a mapping',
        ),
        (
            {"shapes": {"a": {}}},
            "shapes.a: 'kind' is missing; given: {}; accepted: a mapping with kind: Point, Circle",
        ),
        (
            {"shapes": {"a": {"kind": "circle"}}},
            "shapes.a.kind: unknown kind (did you mean 'Circle'?); given: 'circle'; accepted: ",
        ),
        ({"shapes": {"a": {"kind": []}}}, "shapes.a.kind: unknown kind; given: []"),
        ({"shapes": {3: None}}, "shapes: a key is no string; given: 3"),
        (
            {"shapes": {"a": {"kind": "Circle", "radius": 1, "inner": {"kind": "Point", "r": 1}}}},
            "shapes.a.inner.r: Point has no such setting; given: 1; accepted: ",
        ),
        (
            {"shapes": {"a": {"kind": "Circle", "Circle": 1, "radius": 1}}},
            "shapes.a.Circle: Circle has no such setting; given: 1",
        ),
        (
            {"shapes": {"a": {"kind": "Circle", "radius": -1}}},
            "shapes.a.radius: the radius is too small; given: -1; accepted: > 0",
        ),
    ],
)
def test_everything_else_that_is_wrong(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        check(**data)
    assert str(error.value).startswith(message)


def test_all_problems_are_told_with_file_and_line() -> None:
    lines = {("style",): 4, ("style", "copy"): 5}
    data = {"style": {"copy": "x"}, "real": "y"}
    with pytest.raises(SpecError) as error:
        SCHEMA.check(Document(data, "file.yaml", lambda path: lines.get(path)))
    assert str(error.value).splitlines() == [
        "2 values of file.yaml cannot be read",
        "- file.yaml, real: the value is of the wrong type; given: 'y'; accepted: a number",
        "- file.yaml, line 5, style.copy: the value is of the wrong type; given: 'x'; "
        "accepted: an integer",
    ]


def test_long_values_are_shortened() -> None:
    with pytest.raises(SpecError) as error:
        check(real="x" * 10_000)
    assert len(str(error.value)) < 300


def test_exceptions_of_a_class_become_ours() -> None:
    def divide(a: float, b: float) -> float:
        return a / b

    with pytest.raises(SpecError, match="divide does not take this: float division by zero"):
        Schema(divide, Vocabulary()).check(Document({"a": 1, "b": 0}))


def test_the_data_is_not_changed() -> None:
    data = {"shapes": {"a": {"kind": "Circle", "radius": 1}}, "several": [1]}
    kept = repr(data)
    check(**data)
    assert repr(data) == kept


def test_what_plain_data_cannot_give_needs_a_fallback() -> None:
    def hidden(f: Callable[..., Any], t: torch.Tensor | None = None, name: str | Any = "a") -> Any:
        return f, t, name

    with pytest.raises(TypeError, match=r"hidden.f: no plain data gives"):
        Schema(hidden, Vocabulary())
    point = Family("a reference", {}, implied={"at": make_at})
    schema = Schema(hidden, Vocabulary(fallback=point))
    assert schema.check(Document({"f": {"at": "x"}, "name": "b"})) == ("<x>", None, "b")
    assert schema.check(Document({"f": {"at": "x"}, "name": {"at": "y"}})) == ("<x>", None, "<y>")
    with pytest.raises(SpecError, match=r"f: this is not a reference; given: 3; .* with 'at'"):
        schema.check(Document({"f": 3}))
    with pytest.raises(SpecError, match=r"name: .* accepted: a string, or a mapping"):
        schema.check(Document({"f": {"at": "x"}, "name": 3}))
    with pytest.raises(SpecError, match=r"f\.kind: unknown kind"):
        schema.check(Document({"f": {"kind": "x"}}))


def make_at(at: str) -> str:
    return f"<{at}>"


def test_two_mappings_without_a_kind_cannot_be_told_apart() -> None:
    def unclear(a: Style | complex) -> None: ...

    with pytest.raises(TypeError, match="a choice between mappings"):
        Schema(unclear, VOCABULARY)
