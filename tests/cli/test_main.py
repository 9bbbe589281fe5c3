from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pyro_turbovbi
from pyro_turbovbi import cli
from pyro_turbovbi.cli import main


def test_arguments_reach_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(cli, "run_demo", lambda *args, **kwargs: calls.append((args, kwargs)))
    assert main(["demo"]) == 0
    assert main(["demo", "--data", "mnist", "--out", "there", "--epochs", "3", "--seed", "5"]) == 0
    assert calls == [
        (("digits", Path("demo_output")), {"epochs": None, "seed": 0}),
        (("mnist", Path("there")), {"epochs": 3, "seed": 5}),
    ]


def test_errors_are_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYRO_TURBOVBI_DATA", str(tmp_path))
    assert main(["demo", "--data", "mnist", "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: the data set 'mnist' is not on this machine; given: looked in ")
    assert str(tmp_path / "mnist") in line


@pytest.mark.parametrize(
    "arguments", [[], ["unknown"], ["demo", "--data", "cifar"], ["demo", "--epochs", "x"]]
)
def test_arguments_that_cannot_be_parsed_exit_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_the_package_runs_as_a_module() -> None:
    root = Path(pyro_turbovbi.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pyro_turbovbi", "demo", "--help"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "--data {digits,mnist}" in done.stdout
