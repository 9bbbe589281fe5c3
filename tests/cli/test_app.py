"""The options of the commands, and the two ways to start them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyro_turbovbi.cli.demo
from pyro_turbovbi.cli import main
from tests.cli.helpers import ptv

COMMANDS = ("demo", "fit", "compare", "compress", "report", "inspect", "init", "data")


def test_arguments_reach_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(
        pyro_turbovbi.cli.demo, "run_demo", lambda *args, **kwargs: calls.append((args, kwargs))
    )
    assert main(["demo"]) == 0
    assert main(["demo", "--data", "mnist", "--out", "there", "--epochs", "3", "--seed", "5"]) == 0
    assert calls == [
        (("digits", Path("demo_output")), {"epochs": None, "seed": 0}),
        (("mnist", Path("there")), {"epochs": 3, "seed": 5}),
    ]


def test_it_says_its_version() -> None:
    done = ptv("--version")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"pyro_turbovbi {pyro_turbovbi.__version__}\n"


@pytest.mark.parametrize("command", [(), *[(name,) for name in COMMANDS], ("data", "get")])
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    done = ptv(*command, "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"Usage: {' '.join(['ptv', *command])}")
    assert done.stderr == ""


def test_without_a_command_there_is_help() -> None:
    assert ptv().stdout == ptv("--help").stdout


def test_code_is_not_run_by_looking_at_options() -> None:
    """The help of `fit` does not even look at the recipe."""
    assert ptv("fit", "missing.yaml", "--help").exit_code == 0


def test_the_shell_can_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PTV_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "ptv comp")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert ptv().stdout.split() == ["compare", "compress"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        ["-m", "pyro_turbovbi"],
        ["-c", "from pyro_turbovbi.cli import main; import sys; sys.exit(main())"],
    ],
)
def test_the_package_runs_as_a_process(start: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *start, "data", "list", "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert [each["name"] for each in json.loads(done.stdout)["sets"]][:2] == ["digits", "diabetes"]


def test_the_console_script_is_the_command_line() -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="ptv")
    assert script.load() is main
