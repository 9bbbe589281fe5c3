"""Every command that the README and the documentation show does run.

A page's commands run one after the other in one directory, as a reader would type them: the files
of the repository that a reader has are there, and what a page says that the reader brings along.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from pyro_turbovbi.cli import main
from pyro_turbovbi.compression import compress
from tests.cli.helpers import interrupt, write_table
from tests.pages import DOCS, ROOT, all_blocks

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

#: Commands that are not run, by how they begin, and why.
EXEMPT = {
    "ptv data get ": "asks servers elsewhere, which `tests/data/test_downloads.py` plays",
    "torchrun ": "starts several processes, which `test_distributed` does",
    "make ": "makes an environment and runs these very tests, or trains for minutes",
}
#: Folders of the repository that a reader stands beside.
BESIDE = ("models", "recipes")


def houses() -> None:
    write_table(Path("houses.csv"), rows=120)
    write_table(Path("new_houses.csv"), rows=5)


def houses_in_parquet() -> None:
    houses()
    pyarrow.parquet.write_table(pyarrow.csv.read_csv("houses.csv"), "houses.parquet")


def rough_network() -> None:
    """What the Python of the page has saved by then; another test runs that."""
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    masks = {"0.weight": torch.arange(30).reshape(5, 6) % 3 == 0}
    compress(net, masks, torch.randn(20, 6)).save("rough.ptv")


def another_run() -> None:
    run("ptv fit recipes/digits_chain.yaml --engine MAP --prior Normal --out runs/map")


#: What a reader has by the time of a page's commands.
GIVEN: dict[str, Callable[[], None]] = {
    "docs/command-line.md": houses,
    "docs/data.md": houses_in_parquet,
    "docs/deploy.md": rough_network,
    "docs/report.md": another_run,
}


def commands(page: Path) -> list[str]:
    """The lines of all blocks of commands, without comments and prompts."""
    lines = [
        line.removeprefix("$ ").strip()
        for kind, text in all_blocks(page)
        if kind in ("bash", "console", "sh", "shell")
        for line in text.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line and not line.startswith(("#", ">"))]


def run(command: str) -> int:
    """Runs a command, `ptv` within this process; trainings, which are not the point, are short."""
    program, *arguments = shlex.split(command, comments=True)
    if program != "ptv":
        return subprocess.run(command, shell=True, check=False).returncode
    short = arguments[0] == "fit" and "--resume" not in arguments
    return main([*arguments, "--epochs", "2"] if short else arguments)


def interrupted(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the finished run in a folder: the same training, after Ctrl-C."""
    shutil.rmtree(folder)
    with monkeypatch.context() as patch:
        interrupt(patch, epoch=2)
        assert run(f"ptv fit start/recipe.yaml --out {folder}") == 130


def runnable(page: Path) -> list[str]:
    return [line for line in commands(page) if not line.startswith(tuple(EXEMPT))]


WITH_COMMANDS = [page for page in PAGES if runnable(page)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default::pyro_turbovbi.errors.TrainingWarning")
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_the_commands_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(webbrowser, "open", lambda url: True)
    for folder in BESIDE:
        shutil.copytree(ROOT / folder, folder)
    GIVEN.get(str(page.relative_to(ROOT)), lambda: None)()
    for command in runnable(page):
        if command.endswith(" --resume"):
            interrupted(shlex.split(command)[2], monkeypatch)
        assert run(command) == 0, f"{page.relative_to(ROOT)}: {command}"


def test_every_exemption_is_needed() -> None:
    shown = [line for page in PAGES for line in commands(page)]
    assert all(any(line.startswith(start) for line in shown) for start in EXEMPT)
    assert {str(page.relative_to(ROOT)) for page in WITH_COMMANDS} >= GIVEN.keys()
