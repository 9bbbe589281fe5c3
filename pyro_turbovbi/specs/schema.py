"""Pydantic models made from families of classes, and objects made from validated mappings.

Values are taken as they are written: a number is no string that looks like one, and true is not 1.
Whatever is wrong is collected with the way to it; `check` raises it as one `SpecError`.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
import types
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from os import PathLike
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    create_model,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from pyro_turbovbi.errors import SpecError, TurboVBIError
from pyro_turbovbi.specs.documents import Document, KeyPath, show
from pyro_turbovbi.specs.families import KIND, Family, Raw, Setting, Vocabulary, settings_of

#: Model attributes are prefixed: a setting may be called like a method of pydantic's models.
_PREFIX = "setting_"
#: Starts the names of union members, which are no keys.
_TAGGED = "\0"
_PROBLEM = "problem"
_SCALARS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
_Handler = Callable[[Any], Any]


class Schema:
    """Validates plain data as a member of a family, or as the arguments of a function.

    Args:
        target: A family, a dataclass or a function with annotated arguments.
        vocabulary: What the types in annotations stand for.

    Raises:
        TypeError: If an annotation has a type that plain data cannot give.
    """

    def __init__(self, target: Family | Callable[..., Any], vocabulary: Vocabulary) -> None:
        kind = _Types(vocabulary).resolved(target)
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def check(self, document: Document) -> Any:
        """The object that the data describes.

        Args:
            document: The data, and where it stands.

        Raises:
            SpecError: With everything that is wrong: file and line, way to the key, what was given
                and what would be accepted.
        """
        try:
            return self._adapter.validate_python(document.data)
        except ValidationError as error:
            raise _spec_error(error, document) from None


# Types -----------------------------------------------------------------------------------------


class _Types:
    """Pydantic types of annotations. Families refer to each other by name, as they may nest."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.unions: dict[str, Any] = {}
        self.models: list[type[BaseModel]] = []

    def resolved(self, target: Family | Callable[..., Any]) -> Any:
        made = self.family(target) if isinstance(target, Family) else self.mapping(target)
        for model in self.models:
            model.model_rebuild(_types_namespace=self.unions)
        return self.unions[made.__forward_arg__] if isinstance(made, ForwardRef) else made

    def family(self, family: Family) -> Any:
        """A union of models, discriminated by `kind`."""
        name = f"family_{id(family)}"
        if name not in self.unions:
            self.unions[name] = None  # a family inside of itself refers to the name
            named = {kind: self._member(family, m, kind) for kind, m in family.members.items()}
            implied = {key: self._member(family, m, None) for key, m in family.implied.items()}
            tagged = [Annotated[m, Tag(_TAGGED + tag)] for tag, m in (named | implied).items()]
            union: Any = Union[tuple(tagged)]  # noqa: UP007 (made of a tuple)
            if len(tagged) > 1:
                union = Annotated[
                    union, Discriminator(lambda value: f"{_TAGGED}{family.kind_of(value)}")
                ]
            self.unions[name] = Annotated[union, WrapValidator(_choice(family))]
        return ForwardRef(name)

    def _member(self, family: Family, member: Callable[..., Any], kind: str | None) -> Any:
        def make(arguments: dict[str, Any]) -> Any:
            return family.make(member, arguments)

        return self._model(kind or _name(member), settings_of(member), make, kind)

    def mapping(self, member: Callable[..., Any], name: str | None = None) -> Any:
        """A mapping of the arguments of a function or class."""
        settings = settings_of(member)
        return self._model(name or _name(member), settings, lambda given: member(**given), None)

    def _model(
        self,
        name: str,
        settings: Mapping[str, Setting],
        make: Callable[[dict[str, Any]], Any],
        kind: str | None,
    ) -> Any:
        fields: dict[str, Any] = {
            _PREFIX + s.name: (
                self.of(s.annotation, f"{name}.{s.name}"),
                Field(alias=s.name) if s.required else Field(default=None, alias=s.name),
            )
            for s in settings.values()
        }
        if kind is not None:
            fields[_PREFIX + KIND] = (Literal[kind], Field(alias=KIND))
        model: type[BaseModel] = create_model(
            name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **fields
        )
        self.models.append(model)
        return Annotated[model, WrapValidator(_making(name, settings, make))]

    def of(self, annotation: Any, where: str) -> Any:
        """The type of a setting: a leaf of plain data, something structured, or either."""
        parts = _members(annotation)
        found = {part: self._structured(part) for part in parts}
        plain = [part for part, kind in found.items() if kind is None]
        structured = list(dict.fromkeys(kind for kind in found.values() if kind is not None))
        if not structured:
            return _leaf(plain, where)
        if len(structured) > 1:
            raise TypeError(f"{where}: a choice between mappings without a kind, {annotation}")
        if not plain:
            return structured[0]
        return Annotated[structured[0], WrapValidator(_either(plain, where))]

    def _structured(self, annotation: Any) -> Any | None:
        if annotation in self.vocabulary.families:
            return self.family(self.vocabulary.families[annotation])
        if annotation in self.vocabulary.adapters:
            return self.mapping(self.vocabulary.adapters[annotation].make, annotation.__name__)
        if dataclasses.is_dataclass(annotation):
            return self.mapping(annotation)  # type: ignore[arg-type]
        if get_origin(annotation) in (dict, Mapping):
            values = get_args(annotation)[1]
            return Annotated[
                dict[str, self.of(values, "a mapping")],  # type: ignore[misc]
                WrapValidator(_needs_mapping),
            ]
        if self.vocabulary.fallback is not None and not _is_plain(annotation):
            return self.family(self.vocabulary.fallback)
        return None


def _is_plain(annotation: Any) -> bool:
    try:
        return _plain(annotation, "") is not None or annotation is types.NoneType
    except TypeError:
        return False


def _name(member: Callable[..., Any]) -> str:
    return member.__name__.lstrip("_")


def _members(annotation: Any) -> list[Any]:
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return list(get_args(annotation)) if is_union else [annotation]


def _leaf(parts: Sequence[Any], where: str) -> Any:
    """A type of plain data whose only error says what would be accepted."""
    union = _any_of(parts, where)
    accepted = _in_words(parts)

    def explained(value: Any, handler: _Handler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise _problem("the value is of the wrong type", value, accepted) from None

    return Annotated[union, WrapValidator(explained)]


def _any_of(parts: Sequence[Any], where: str) -> Any:
    whole = [part for part in parts if not (part is int and float in parts)]  # a number is a float
    return Union[tuple(_plain(part, where) for part in whole)]  # noqa: UP007 (made of a tuple)


def _plain(annotation: Any, where: str) -> Any:
    """The strict type of plain data: numbers, strings, literals, None and lists of them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _SCALARS:
        return Annotated[annotation, Strict()]
    if annotation == Raw:
        return Any
    if annotation in (None, types.NoneType):
        return None
    if origin is Literal:
        return annotation
    if origin is PathLike:
        return Annotated[str, Strict()]
    if origin in (list, Sequence):
        return tuple[_any_of(_members(arguments[0]), where), ...]  # type: ignore[misc]
    if origin is tuple:
        items = [a if a is ... else _any_of(_members(a), where) for a in arguments]
        return tuple[tuple(items)]  # type: ignore[misc]
    raise TypeError(f"{where}: no plain data gives {annotation}")


def _in_words(parts: Sequence[Any]) -> str:
    """What plain data a choice of annotations takes."""
    whole = [p for p in parts if not (p is int and float in parts) and p is not types.NoneType]
    words = " or ".join(dict.fromkeys(_word(part) for part in whole))
    return f"{words}, or leave it out" if types.NoneType in parts else words


def _word(annotation: Any) -> str:
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if annotation == Raw:
        return "plain data"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is PathLike:
        return "a path"
    if origin is tuple and ... not in arguments:
        return f"a list of {', '.join(_in_words(_members(a)) for a in arguments)}"
    return f"a list, each of them {_in_words(_members(arguments[0]))}"


# Problems --------------------------------------------------------------------------------------


def _choice(family: Family) -> Callable[[Any, _Handler], Any]:
    """Explains a missing or unknown `kind` before pydantic looks for the model."""

    def validate(value: Any, handler: _Handler) -> Any:
        if not isinstance(value, Mapping):
            raise _problem(f"this is not {family.noun}", value, f"a mapping with {family.choices}")
        kind = family.kind_of(value)
        if KIND not in value and kind is None:
            raise _problem(f"{KIND!r} is missing", value, f"a mapping with {family.choices}")
        if KIND in value and kind not in family.members:
            hint = _hint(value[KIND], family.members)
            accepted = list(family.members) or f"a mapping with {family.choices}"
            raise _problem(f"unknown kind{hint}", value[KIND], accepted, (KIND,))
        return handler(value)

    return validate


def _making(
    name: str, settings: Mapping[str, Setting], make: Callable[[dict[str, Any]], Any]
) -> Callable[[Any, _Handler], Any]:
    """Makes the object of a validated model, and explains what is wrong with its keys."""

    def validate(value: Any, handler: _Handler) -> Any:
        _needs_mapping(value, dict)
        try:
            model = handler(dict(value))
        except ValidationError as error:
            raise _explained(error, name, settings) from None
        names = [_PREFIX + s for s in settings if _PREFIX + s in model.model_fields_set]
        try:
            return make({n.removeprefix(_PREFIX): getattr(model, n) for n in names})
        except TurboVBIError as error:
            loc = _culprit(error, value)
            given = value[loc[0]] if loc else value if error.given is None else error.given
            raise _problem(error.problem, given, error.accepted, loc) from error
        except (ValueError, TypeError, ArithmeticError) as error:
            raise _problem(f"{name} does not take this: {error}", value, None) from error

    return validate


def _either(plain: Sequence[Any], where: str) -> Callable[[Any, _Handler], Any]:
    """A mapping goes to the structured type, everything else to plain data."""
    leaf: TypeAdapter[Any] = TypeAdapter(_any_of(plain, where))
    words = " or ".join(filter(None, [_in_words([p for p in plain if p is not types.NoneType])]))

    def validate(value: Any, handler: _Handler) -> Any:
        if isinstance(value, Mapping):
            return handler(value)
        try:
            return leaf.validate_python(value)
        except ValidationError:
            if not words:
                return handler(value)  # its own message says which mappings there are
            accepted = f"{words}, or a mapping"
            raise _problem("the value is of the wrong type", value, accepted) from None

    return validate


def _needs_mapping(value: Any, handler: _Handler) -> Any:
    if not isinstance(value, Mapping):
        raise _problem("the value is of the wrong type", value, "a mapping")
    if odd := [key for key in value if not isinstance(key, str)]:
        raise _problem("a key is no string", odd[0], "a string")
    return handler(value)


def _explained(
    error: ValidationError, name: str, settings: Mapping[str, Setting]
) -> ValidationError:
    """The same errors, those about the model's own keys in our words."""
    details: list[InitErrorDetails] = []
    for e in error.errors(include_url=False):
        key = str(e["loc"][-1]) if e["loc"] else ""
        if e["type"] == "extra_forbidden":
            text = f"{name} has no such setting{_hint(key, settings)}"
            details.append(_detail(text, e["input"], list(settings), e["loc"]))
        elif e["type"] == "missing":
            details.append(_detail(f"{name} needs it", e["input"], list(settings), e["loc"]))
        else:
            error_again = PydanticCustomError(_PROBLEM, "{problem}", e["ctx"])
            details.append(InitErrorDetails(type=error_again, loc=e["loc"], input=e["input"]))
    return ValidationError.from_exception_data(name, details)


def _problem(problem: str, given: object, accepted: object, loc: KeyPath = ()) -> ValidationError:
    return ValidationError.from_exception_data(_PROBLEM, [_detail(problem, given, accepted, loc)])


def _detail(problem: str, given: object, accepted: object, loc: KeyPath) -> InitErrorDetails:
    context = {"problem": problem, "given": _shown(given), "accepted": accepted}
    error = PydanticCustomError(_PROBLEM, "{problem}", context)
    return InitErrorDetails(type=error, loc=loc, input=given)


def _shown(given: object) -> str:
    """A value as it may stand in a file, shortened."""
    return "null" if given is None else _REPR.repr(given)


def _hint(given: object, names: Mapping[str, Any]) -> str:
    """The name that may have been meant."""
    lower = {name.lower(): name for name in names}
    close = get_close_matches(str(given).lower(), lower, n=1)
    return f" (did you mean {lower[close[0]]!r}?)" if close else ""


def _culprit(error: TurboVBIError, value: Mapping[str, Any]) -> tuple[str, ...]:
    """The one key of a mapping that a class's own message names, or whose value it shows."""
    named = [key for key in value if re.search(rf"\b{re.escape(key)}\b", error.problem)]
    shown = [key for key, item in value.items() if item is error.given is not None]
    found = named if len(named) == 1 else shown
    return (found[0],) if len(found) == 1 else ()


def _spec_error(error: ValidationError, document: Document) -> SpecError:
    found = [(_path(e["loc"]), e["ctx"]) for e in error.errors(include_url=False)]
    if len(found) == 1:
        return _one_error(*found[0], document)
    source = f" of {document.source}" if document.source else ""
    each = [str(_one_error(path, context, document)) for path, context in found]
    return SpecError("\n- ".join([f"{len(found)} values{source} cannot be read", *each]))


def _one_error(path: KeyPath, context: Mapping[str, Any], document: Document) -> SpecError:
    problem = f"{_where(path, document)}{context['problem']}"
    return SpecError(problem, given=context["given"], accepted=context["accepted"])


def _where(path: KeyPath, document: Document) -> str:
    """File, line and key: `prior.yaml, line 3, support.density: `."""
    if any(path[: len(key)] == key for key in document.elsewhere):
        return f"{show(path)}: "
    line = next(filter(None, (document.line_of(path[:n]) for n in range(len(path), -1, -1))), None)
    parts = [document.source, f"line {line}" if line else None, show(path)]
    text = ", ".join(part for part in parts if part)
    return f"{text}: " if text else ""


def _path(loc: KeyPath) -> KeyPath:
    """The way through the data: pydantic also names the member of a union that it went through."""
    return tuple(key for key in loc if not str(key).startswith(_TAGGED))
