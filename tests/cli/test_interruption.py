"""Ctrl-C: what every command says, and that nothing is left half written."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_turbovbi.cli.interruption import Interrupted, noticed, on_interrupt, tell
from pyro_turbovbi.cli.runs import Run
from tests.cli.helpers import fitted, interrupt, ptv, write_recipe

NOTHING = "interrupted; nothing was written; to start anew, give the same command again\n"


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """Shells have what they start in the background ignore it, and so would its own children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stopping(*_args: object, **_options: object) -> Any:
    """Stands for anything that takes long."""
    raise KeyboardInterrupt


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_place_that_knows_what_is_kept_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Interrupted, match=r"^inner$") as caught, on_interrupt(lambda: "outer"):  # noqa: SIM117
        with on_interrupt(lambda: "inner"):
            stopping()
    assert tell(caught.value) == 130
    assert tell(KeyboardInterrupt("of a library")) == 130
    assert capsys.readouterr().err == f"interrupted; inner\n{NOTHING}"


def test_ctrl_c_is_noticed_where_its_exception_is_swallowed() -> None:
    before = signal.getsignal(signal.SIGINT)
    with noticed() as interrupted:
        assert not interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interrupted()
    assert signal.getsignal(signal.SIGINT) is before


def test_handlers_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noticed() as interrupted:
            signal.raise_signal(signal.SIGINT)
            assert not interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "current_thread", lambda: None)
        with noticed():
            assert signal.getsignal(signal.SIGINT) is before


INSIDE = {
    "compare": ("pyro_turbovbi.cli.compare.compare", ["compare", "run", "run"]),
    "compress": ("pyro_turbovbi.result.Fit.compress", ["compress", "run"]),
    "saving": ("os.fsync", ["compress", "run"]),
    "report": ("pyro_turbovbi.cli.report.make_report", ["report", "run"]),
    "page": ("os.fsync", ["report", "run"]),
    "init": ("pyro_turbovbi.recipe.Recipe.build_data", ["init", "new"]),
    "fit": ("pyro_turbovbi.recipe.Recipe.build", ["fit", "recipe.yaml"]),
    "run": ("pyro_turbovbi.cli.runs.Run._remember", ["fit", "recipe.yaml"]),
}


def test_a_command_that_is_interrupted_writes_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(here)
    assert ptv("compress", "run").exit_code == 0, "an older file, which must stay as it is"
    before = files(here)
    for name, (target, arguments) in INSIDE.items():
        with monkeypatch.context() as patch:
            patch.setattr(target, stopping)
            done = ptv(*arguments)
        assert (done.exit_code, done.stdout, done.stderr) == (130, "", NOTHING), name
        assert files(here) == before, name
        assert not (here / "runs").exists(), name


def test_of_two_new_files_none_stays(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Path.open

    def second(self: Path, *args: Any, **options: Any) -> Any:
        return stopping() if self.name == "recipe.yaml" else usual(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", second)
        assert ptv("init", "new").stderr == NOTHING
    assert files(here) == {}
    assert ptv("init", "new").exit_code == 0, "the same command again"


def test_a_browser_in_the_terminal_is_left(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(here)
    monkeypatch.setattr("webbrowser.open", stopping)
    done = ptv("report", "run", "--open")
    assert done.exit_code == 130
    assert done.stderr == "interrupted; the page is complete: run/report.html\n"
    assert (here / "run" / "report.html").is_file()


def test_ctrl_c_once_more_while_a_run_is_being_saved(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(here)
    interrupt(monkeypatch, epoch=2)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", stopping)
        done = ptv("fit", "recipe.yaml", "--epochs", 3)
        assert done.exit_code == 130
        assert done.stderr == (
            "interrupted; the run is not saved in full; go on with: ptv fit runs/recipe --resume\n"
        )
        told = ("--epochs", 3, "--checkpoint-every", 0, "--out", "other")
        assert ptv("fit", "recipe.yaml", *told).stderr.endswith("it cannot go on\n")
    done = ptv("fit", "recipe.yaml", "--epochs", 3, "--checkpoint-every", 0, "--out", "third")
    assert done.stdout.endswith("interrupted; without a checkpoint it cannot go on\n")


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_turbovbi.cli.inspect.inspect_file", stopping)
    done = ptv("inspect", "net.ptv", "--debug")
    assert done.exit_code == 130
    assert done.stderr.startswith("Traceback ")
    assert done.stderr.endswith(f"KeyboardInterrupt\n{NOTHING}")


def test_an_error_that_follows_from_ctrl_c_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that swallows it may be left half imported."""

    def swallowed(_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise AttributeError

    monkeypatch.setattr("pyro_turbovbi.cli.inspect.inspect_file", swallowed)
    done = ptv("inspect", "net.ptv")
    assert (done.exit_code, done.stderr) == (130, NOTHING)


DATA = """\
import pathlib, time, torch

def data():
    if pathlib.Path("slow").exists():
        pathlib.Path("loading").touch()
        time.sleep(60)
    return torch.randn(16, 2), torch.randn(16)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal there")
def test_a_process_that_gets_the_signal(here: Path) -> None:
    write_recipe(here)
    (here / "mine.py").write_text(DATA)
    assert ptv("fit", "recipe.yaml", "--data", "mine.py:data", "--out", "run").exit_code == 0
    (here / "slow").touch()
    command = [sys.executable, "-m", "pyro_turbovbi", "compress", "run"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            deadline = time.monotonic() + 100
            while not (here / "loading").exists() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=50)
        finally:
            process.kill()  # nothing happens to one that has ended
    assert (process.returncode, out, err) == (130, "", NOTHING)
    assert not (here / "run" / "net.ptv").exists()
