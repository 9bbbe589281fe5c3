"""How every command ends: results on the output, errors in one line, documented exit codes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, TextIO, runtime_checkable

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from pyro_turbovbi.cli.interruption import noticed, tell
from pyro_turbovbi.errors import TurboVBIError, TurboVBIWarning

FINE, FAILED, MISUSED = 0, 1, 2
"""Exit codes: all went well; an error; arguments that cannot be understood."""
DEBUG = "--debug"
"""Anywhere on the command line: an error shows where it arose."""


@runtime_checkable
class Result(Protocol):
    """What a command gives: text for people, plain data for machines."""

    def __str__(self) -> str: ...
    def to_dict(self) -> Mapping[str, Any]:
        """All of it, in plain data."""
        ...


class _Stopped(Exception):  # noqa: N818
    """Carries Ctrl-C, its cause, past typer, which would end the process without a word."""

    def __init__(self, interrupt: KeyboardInterrupt) -> None:
        self.interrupt = interrupt


@contextmanager
def _stopping() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise _Stopped(interrupt) from interrupt


class Commands(TyperGroup):
    """The commands; whatever happens in one, the process ends with an exit code."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **options: Any) -> NoReturn:
        """Runs the command that the arguments name.

        Args:
            args: The arguments after the program's name; None takes those of the process.
            options: See typer; `standalone_mode` has no effect.

        Raises:
            SystemExit: Always; see `FINE`, `FAILED`, `MISUSED` and `interruption.INTERRUPTED`.
        """
        given = sys.argv[1:] if args is None else list(args)
        plain = [argument for argument in given if argument != DEBUG] or ["--help"]
        options["standalone_mode"] = False
        with _plain_warnings():
            sys.exit(self._code(plain, options, debug=DEBUG in given))

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Reads the arguments in front of the command."""
        with _stopping():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        with _stopping():
            return super().invoke(ctx)

    def _code(self, args: Sequence[str], options: Mapping[str, Any], *, debug: bool) -> int:
        with noticed() as interrupted:
            try:
                code = super().main(args, **options)
            except _Stopped as stopped:
                if debug:
                    traceback.print_exception(stopped.interrupt)
                return tell(stopped.interrupt)
            except Exception as error:
                if debug:
                    raise
                return _failed(error, interrupted=interrupted())
        return code if isinstance(code, int) else FINE


def _failed(error: Exception, *, interrupted: bool) -> int:
    """Says what an error says; the exit code."""
    if isinstance(error, TyperException | TurboVBIError | typer.Abort):
        _say("error", _in_words(error))
        return MISUSED if isinstance(error, TyperException) else FAILED
    if interrupted:  # by which a library was left half imported, for example
        return tell(KeyboardInterrupt())
    _say("error", f"{type(error).__name__}: {error}; {DEBUG} shows where it arose")
    return FAILED


def show(result: Result, *, as_json: bool) -> None:
    """Prints the result of a command: one JSON object, or text."""
    print(json.dumps(plain(result.to_dict()), indent=2, allow_nan=False) if as_json else result)


def plain(value: Any) -> Any:
    """A value as JSON takes it: numbers that are not finite become null, paths and others text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, os.PathLike):
        return [plain(item) for item in value]
    return str(value)


def _in_words(error: Exception) -> str:
    """What an error says; after a mistake in the arguments, where those are listed."""
    if not isinstance(error, TyperException):
        return str(error)
    context = getattr(error, "ctx", None)
    where = f"; `{context.command_path} --help` lists what there is" if context else ""
    return error.format_message().rstrip(".") + where


def _say(kind: str, message: object) -> None:
    """One line on the error stream, whatever the message's own lines."""
    print(f"{kind}: {' '.join(str(message).split())}", file=sys.stderr)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Shows warnings of this package as it shows errors; the place in its code means nothing."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show_warning(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, TurboVBIWarning):
                _say("warning", message)
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show_warning
        yield


__all__ = [
    "DEBUG",
    "FAILED",
    "FINE",
    "MISUSED",
    "Commands",
    "Result",
    "plain",
    "show",
]
