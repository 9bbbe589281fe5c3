"""What a specification can name: families of classes, and the settings of each.

The classes are the only definition: names, types and defaults of the settings come from the fields
of a dataclass or from the signature of a function, ranges from its own checks.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_type_hints

from pyro_turbovbi.errors import SpecError

#: The key that names the member of a family.
KIND = "kind"
#: Annotates a setting that is taken as it is: the object made of it looks at the value.
Raw = Annotated[Any, "raw"]
#: The default of a setting that has none.
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Setting:
    """One argument of a class or function.

    Attributes:
        name: Its name.
        annotation: Its type, resolved.
        default: Its default; `REQUIRED` if it has none, a factory's value where it has one.
    """

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is REQUIRED


@dataclass(frozen=True)
class Family:
    """Things of one sort, one of which a specification chooses by `kind`.

    Attributes:
        noun: What a member is, with its article: "a support prior".
        members: Classes or functions by kind.
        implied: Members that need no `kind`, by the key that gives them away.
        make: How a validated choice becomes an object: `make(member, arguments)`.
    """

    noun: str
    members: Mapping[str, Callable[..., Any]]
    implied: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    make: Callable[[Callable[..., Any], dict[str, Any]], Any] = lambda member, arguments: member(
        **arguments
    )

    def kind_of(self, value: Mapping[str, Any]) -> str | None:
        """The kind that a mapping names, or the key that implies its kind; None without either."""
        if KIND in value:
            return value[KIND] if isinstance(value[KIND], str) else None
        return next((key for key in self.implied if key in value), None)

    @property
    def choices(self) -> str:
        """What can be written, in words."""
        kinds = [f"{KIND}: {', '.join(self.members)}"] if self.members else []
        keys = [k for k, m in self.implied.items() if m not in self._members_before(k)]
        return "; or with ".join([*kinds, *map(repr, keys)])

    def _members_before(self, key: str) -> list[Callable[..., Any]]:
        return list(self.implied.values())[: list(self.implied).index(key)]


@dataclass(frozen=True)
class Adapter:
    """How an object that is no dataclass is written as a mapping and made from one.

    Attributes:
        make: A function with annotated arguments, the keys of the mapping.
        dump: The mapping of an object.
    """

    make: Callable[..., Any]
    dump: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class Vocabulary:
    """What the types in annotations stand for.

    Attributes:
        families: Families by the type that annotates a choice among them.
        adapters: Adapters by the type of the object.
        fallback: What is asked for where a setting takes what is neither plain data nor known here;
            None: there must be no such setting.
    """

    families: Mapping[Any, Family] = field(default_factory=dict)
    adapters: Mapping[type, Adapter] = field(default_factory=dict)
    fallback: Family | None = None


def settings_of(member: Callable[..., Any]) -> dict[str, Setting]:
    """Settings of a dataclass (its fields) or of another callable (its arguments), by name.

    Raises:
        TypeError: If an argument has no annotation or is called `kind`.
    """
    found = _fields(member) if dataclasses.is_dataclass(member) else _arguments(member)
    if KIND in found:
        raise TypeError(f"{member} has a setting {KIND!r}, the key that names the member itself")
    return found


def _fields(cls: Any) -> dict[str, Setting]:
    hints = get_type_hints(cls, include_extras=True)
    fields = [f for f in dataclasses.fields(cls) if f.init]
    return {f.name: Setting(f.name, hints[f.name], _default(f)) for f in fields}


def _default(f: dataclasses.Field[Any]) -> Any:
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    return REQUIRED if f.default is dataclasses.MISSING else f.default


def _arguments(function: Any) -> dict[str, Setting]:
    annotated = (
        inspect.getattr_static(function, "__init__") if inspect.isclass(function) else function
    )
    hints = get_type_hints(annotated, include_extras=True)
    everything = inspect.signature(function).parameters.values()
    # *args and **kwargs are those of a base class: nothing that could be written by name
    parameters = [p for p in everything if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if unknown := [p.name for p in parameters if p.name not in hints]:
        raise TypeError(f"{function} has arguments without a type: {', '.join(unknown)}")
    return {p.name: Setting(p.name, hints[p.name], p.default) for p in parameters}


def dump(value: Any, family: Family, vocabulary: Vocabulary) -> dict[str, Any]:
    """The specification of an object: its kind and all of its settings, as plain data.

    Defaults are written too, so that the specification keeps its meaning when a default changes.
    Only a None that is the default is left out: TOML has no null.

    Args:
        value: A frozen dataclass, an instance of a member of the family.
        family: The family.
        vocabulary: What the types of its settings stand for.

    Returns:
        Mappings, lists, strings, numbers and booleans.

    Raises:
        SpecError: If the value, or one inside of it, cannot be written.
    """
    kind = type(value).__name__
    if family.members.get(kind) is not type(value):
        raise SpecError(
            f"only {family.noun} of this package can be written as a specification",
            given=value,
            accepted=family.members,
        )
    return {KIND: kind} | _dump_fields(value, vocabulary)


def _dump_fields(value: Any, vocabulary: Vocabulary) -> dict[str, Any]:
    given = {name: (getattr(value, name), s) for name, s in settings_of(type(value)).items()}
    return {
        name: _dump_value(item, setting.annotation, vocabulary)
        for name, (item, setting) in given.items()
        if not (item is None and setting.default is None)
    }


def _dump_value(value: Any, annotation: Any, vocabulary: Vocabulary) -> Any:
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return plain(value)  # numpy's numbers become Python's
    if value is None:
        return None
    if isinstance(value, Sequence):
        return [_dump_value(item, annotation, vocabulary) for item in value]
    for known, adapter in vocabulary.adapters.items():
        if isinstance(value, known):
            return adapter.dump(value)
    for family in _families(annotation, vocabulary):
        return dump(value, family, vocabulary)
    if dataclasses.is_dataclass(value):
        return _dump_fields(value, vocabulary)
    raise SpecError(
        "a value cannot be written as a specification",
        given=value,
        accepted="numbers, strings, booleans and what is made of them",
    )


def _families(annotation: Any, vocabulary: Vocabulary) -> list[Family]:
    """Families that an annotation mentions, in unions and sequences too."""
    own = [vocabulary.families[annotation]] if annotation in vocabulary.families else []
    inner = (_families(part, vocabulary) for part in get_args(annotation))
    return own + [family for families in inner for family in families]
