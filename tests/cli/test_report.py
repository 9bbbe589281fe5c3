"""`ptv report`: a page of a run, with what the run has and without what it lacks."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest

from pyro_turbovbi.cli.report import report_runs
from pyro_turbovbi.errors import InvalidArgumentError
from tests.cli.helpers import fitted, ptv, write_recipe


@pytest.fixture
def run(here: Path) -> Path:
    return fitted(here)


def test_before_and_after_compression(run: Path) -> None:
    done = ptv("report", run)
    assert done.exit_code == 0, done.stderr
    assert "wrote run/report.html" in done.stdout
    assert "ptv compress makes one" in done.stdout
    page = (run / "report.html").read_text()
    assert "There is no small network yet" in page
    assert "kind: csv_file" in page, "the recipe is in it"
    assert ptv("compress", run).exit_code == 0
    printed = json.loads(ptv("report", run, "-o", "page.html", "--json").stdout)
    assert printed == {
        "file": "page.html",
        "bytes": Path("page.html").stat().st_size,
        "network": "run/net.ptv",
        "test_points": 4,
    }
    size = (run / "net.ptv").stat().st_size
    assert f"a file of {size} bytes" in Path("page.html").read_text()


@pytest.mark.slow
def test_runs_beside_each_other_and_the_browser(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert ptv("fit", "recipe.yaml", "--out", "second", "--engine", "MAP").exit_code == 0
    assert ptv("report", run, "second", "--open").exit_code == 0
    assert "Other runs" in (run / "report.html").read_text()
    assert opened == [(run / "report.html").absolute().as_uri()]


@pytest.mark.slow
def test_data_without_a_test_part(here: Path) -> None:
    write_recipe(here)
    arguments = ("fit", "recipe.yaml", "--out", "one", "--set", "data.test=0.0")
    assert ptv(*arguments).exit_code == 0
    assert ptv("compress", "one").exit_code == 0
    assert report_runs([Path("one")]).test_points == 0
    page = Path("one/report.html").read_text()
    assert "No test data were given" in page
    assert "256 inputs" not in page, "few points make a small batch"


def test_what_cannot_be_done(run: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="there is no such directory; given: no"):
        report_runs([run], Path("no/page.html"))
    with pytest.raises(InvalidArgumentError, match="this is no run"):
        report_runs([Path("nowhere")])
    assert ptv("fit", "recipe.yaml", "--out", "two", "--set", "data.seed=1").exit_code == 0
    with pytest.raises(InvalidArgumentError, match="two and run are of different data"):
        report_runs([run, Path("two")])
