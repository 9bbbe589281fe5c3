"""Settings come from the classes; objects become plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from pyro_turbovbi.errors import SpecError
from pyro_turbovbi.specs.families import REQUIRED, Adapter, Family, Vocabulary, dump, settings_of


@dataclass(frozen=True)
class Inner:
    size: float = 1.0


class Shape:
    """Annotates a member of the family."""


@dataclass(frozen=True)
class Outer(Shape):
    number: float
    many: Sequence[int] = (1, 2)
    inner: Inner = field(default_factory=Inner)
    nested: Shape | None = None
    maybe: int | None = 3
    derived: int = field(default=0, init=False)


class Plain:
    def __init__(self, a: int, *rest: Any, b: str = "x", **others: Any) -> None: ...


class Bare(Plain):
    pass


def untyped(a, b: int = 1) -> None: ...  # type: ignore[no-untyped-def]


def of_a_kind(kind: str) -> None: ...


FAMILY = Family("a shape", {"Outer": Outer})
VOCABULARY = Vocabulary({Shape: FAMILY}, {complex: Adapter(complex, lambda z: {"re": z.real})})


def test_settings_of_a_dataclass() -> None:
    found = settings_of(Outer)
    assert list(found) == ["number", "many", "inner", "nested", "maybe"]
    assert found["number"].required
    assert found["number"].default is REQUIRED
    assert found["inner"].default == Inner()
    assert found["maybe"].annotation == int | None


def test_settings_of_other_callables() -> None:
    assert {n: (s.annotation, s.default) for n, s in settings_of(Plain).items()} == {
        "a": (int, REQUIRED),
        "b": (str, "x"),
    }
    assert settings_of(Bare) == settings_of(Plain)
    with pytest.raises(TypeError, match="arguments without a type: a"):
        settings_of(untyped)
    with pytest.raises(TypeError, match="a setting 'kind'"):
        settings_of(of_a_kind)


def test_dump_is_plain_and_complete() -> None:
    value = Outer(np.float64(2.5), many=[np.int64(3).item()], nested=Outer(1.0), maybe=None)
    spec = dump(value, FAMILY, VOCABULARY)
    inner = {"kind": "Outer", "number": 1.0, "many": [1, 2], "inner": {"size": 1.0}, "maybe": 3}
    assert spec == {
        "kind": "Outer",
        "number": 2.5,
        "many": [3],
        "inner": {"size": 1.0},
        "nested": inner,
        "maybe": None,  # not its default
    }
    assert type(spec["number"]) is float


def test_adapters_dump_what_is_no_dataclass() -> None:
    assert dump(Outer(2j), FAMILY, VOCABULARY)["number"] == {"re": 0.0}  # type: ignore[arg-type]


def test_what_cannot_be_written() -> None:
    @dataclass(frozen=True)
    class Mine(Outer):
        pass

    with pytest.raises(SpecError, match=r"only a shape of this package .* accepted: Outer"):
        dump(Mine(1.0), FAMILY, VOCABULARY)
    with pytest.raises(SpecError, match="only a shape of this package"):
        dump(Outer(1.0, nested=Mine(2.0)), FAMILY, VOCABULARY)
    with pytest.raises(SpecError, match="a value cannot be written as a specification"):
        dump(Outer(object()), FAMILY, VOCABULARY)  # type: ignore[arg-type]


def test_kinds_and_choices() -> None:
    family = Family("x", {"A": Inner}, implied={"first": Plain, "second": Plain, "other": Bare})
    assert family.kind_of({"kind": "A", "first": 1}) == "A"
    assert family.kind_of({"kind": 3}) is None
    assert family.kind_of({"second": 3}) == "second"
    assert family.kind_of({}) is None
    assert family.choices == "kind: A; or with 'first'; or with 'other'"
