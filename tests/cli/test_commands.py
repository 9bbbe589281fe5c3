"""How commands end, with commands made for the purpose."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pyro_turbovbi.cli.commands import Commands, plain, show
from pyro_turbovbi.errors import InvalidArgumentError, TrainingWarning


def ending(action: Callable[[], Any], *arguments: str) -> Any:
    """Runs `action` as a command."""
    app = typer.Typer(name="ptv", cls=Commands, rich_markup_mode=None)

    @app.callback()
    def root() -> None: ...

    @app.command()
    def act(times: int = 1) -> None:
        action()

    return CliRunner().invoke(app, ["act", *arguments])


def failing(error: BaseException) -> Callable[[], None]:
    def action() -> None:
        raise error

    return action


def test_nothing_to_report() -> None:
    done = ending(lambda: print("done"))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            InvalidArgumentError("wrong\n- twice", given=1, accepted="2"),
            1,
            "error: wrong - twice; given: 1; accepted: 2\n",
        ),
        (KeyError("x"), 1, "error: KeyError: 'x'; --debug shows where it arose\n"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted; nothing was written; to start anew, give the same command again\n",
        ),
        (typer.Exit(130), 130, ""),
        (
            typer.BadParameter("no such thing."),
            2,
            "error: Invalid value: no such thing; `ptv act --help` lists what there is\n",
        ),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    error: BaseException, code: int, message: str
) -> None:
    done = ending(failing(error))
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", message)


@pytest.mark.parametrize("error", [InvalidArgumentError("wrong"), KeyError("x")])
@pytest.mark.parametrize("where", ["before", "after"])
def test_debug_raises(error: Exception, where: str) -> None:
    done = ending(failing(error), *(["--debug"] if where == "after" else []))
    if where == "after":
        assert done.exception is error
    else:
        assert isinstance(done.exception, SystemExit)


def test_arguments_that_cannot_be_understood() -> None:
    done = ending(lambda: None, "--times", "x")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: Invalid value for '--times': ")
    assert done.stderr.endswith("; `ptv act --help` lists what there is\n")


def test_warnings_are_one_line() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = ending(lambda: warnings.warn("look\nhere", TrainingWarning, stacklevel=1))
        assert (done.exit_code, done.stderr) == (0, "warning: look here\n")
    with pytest.warns(UserWarning, match="other"):
        ending(lambda: warnings.warn("other", UserWarning, stacklevel=1))


@dataclass(frozen=True)
class Thing:
    path: Path
    number: float

    def __str__(self) -> str:
        return "a thing"

    def to_dict(self) -> Mapping[str, Any]:
        return {"self": self, "list": (1, True, None, math.nan, "text"), "map": {1: {2}}}


def test_results_are_text_or_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    thing = Thing(Path("a") / "b", math.inf)
    show(thing, as_json=False)
    assert capsys.readouterr().out == "a thing\n"
    show(thing, as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "self": {"path": os.path.join("a", "b"), "number": None},
        "list": [1, True, None, None, "text"],
        "map": {"1": [2]},
    }
    assert plain(Path("a")) == "a"
