"""Tables and pictures from stored runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.common import write_json
from benchmarks.frontier_cases import plots, tables
from benchmarks.frontier_cases.anchors import ANCHORS, Anchor
from benchmarks.frontier_cases.methods import DENSE
from benchmarks.frontier_cases.recipes import FULL
from benchmarks.frontier_cases.runs import Run, measured_recipe, result_of
from tests.benchmarks.frontier_cases import tiny


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    tiny.install(monkeypatch, tmp_path)
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results" / "frontier")
    monkeypatch.setattr(plots, "IMAGES", tmp_path / "images")
    anchors = (Anchor("VD", 2.0, 1.5, "a paper"), Anchor("RigL", 1.7, None, "another", size=900))
    monkeypatch.setitem(ANCHORS, tiny.NAME, anchors)
    return tmp_path


def store(method: str, seed: int, error: float, **changes: object) -> None:
    """A run as `result_of` would have stored it."""
    run = Run(tiny.NAME, method, seed)
    figures = dict.fromkeys(tables.COLUMNS, 5.0) | {"error_percent": error, "structure": f"{seed}"}
    circumstances = {"environment": {"device": "a processor"}}
    recipe = {"recipe": measured_recipe(run)}
    write_json(run.path, {**recipe, **figures, **circumstances, **changes})


def test_rows_are_medians_over_seeds_with_the_recipe_beside_them(folder: Path) -> None:
    for seed, error in enumerate((2.0, 1.0, 3.0)):
        store(FULL, seed, error)
    store(DENSE, 0, 1.5, bytes=None)
    (path,) = tables.write_tables([tiny.NAME], (0, 1, 2), "as said")
    result = json.loads(path.read_text())
    assert path == folder / "results" / "frontier_tiny.json"
    dense, full, *published = result["rows"]
    assert full["test_error_percent"] == {"median": 2.0, "min": 1.0, "max": 3.0}
    assert full["structure"] == "0"
    assert full["seeds"] == [0, 1, 2]
    assert dense["bytes"] is None
    assert (dense["method"], full["method"]) == (f"{DENSE} (of seeds 0 alone)", FULL)
    assert result["recipes"][FULL]["settings"]["engine"]["kind"] == "Turbo"
    assert result["device"] == "a processor, 1 thread"
    assert [row["source"] for row in published] == ["a paper", "another"]
    assert "bytes" not in published[0]


def test_runs_of_another_recipe_have_no_row() -> None:
    store(FULL, 0, 2.0, recipe={"epochs": 1})
    assert tables.found_runs(tiny.NAME, [FULL], (0, 1)) == {}


def test_the_ablation_stands_beside_the_full_method() -> None:
    store(FULL, 0, 2.0)
    assert len(tables.write_tables([tiny.NAME], (0,), "")) == 1
    store("without gates", 0, 2.5)
    path = tables.write_tables([tiny.NAME], (0,), "")[1]
    assert [row["method"] for row in json.loads(path.read_text())["rows"]] == [
        FULL,
        "without gates",
    ]


def test_the_frontier_shows_measured_and_published(folder: Path) -> None:
    store(FULL, 0, 2.0)
    store("magnitude, 20 %", 0, 2.5)
    store("magnitude, 50 %", 0, 2.2)
    store("sparse VD", 0, 90.0)  # far off the plot
    figure = plots.frontier(tables.table(tiny.NAME, (0,), ""))
    left, size = figure.axes
    assert left.get_xscale() == size.get_xscale() == "log"
    assert left.get_legend_handles_labels()[1] == ["magnitude", FULL]
    assert [text.get_text() for text in left.texts] == ["VD"]
    assert [text.get_text() for text in size.texts] == ["RigL"]
    texts = set()
    for _ in range(2):
        plots.save(plots.frontier(tables.table(tiny.NAME, (0,), "")), "frontier.svg")
        texts.add((folder / "images" / "frontier.svg").read_text())
    assert len(texts) == 1, "the same picture every time"


def test_supports_of_kept_networks_are_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "PICTURED", ("magnitude, 20 %", FULL))
    found = result_of(Run(tiny.NAME, "magnitude, 20 %"))
    (path,) = tables.write_tables([tiny.NAME], (0,), "", pictures=True)
    files = [picture["file"] for picture in json.loads(path.read_text())["pictures"]]
    assert files == ["images/frontier_tiny.svg", "images/supports_tiny.png"]
    assert all((folder / file).stat().st_size > 0 for file in files)
    figure = plots.supports(tiny.NAME, plots.pictured(tiny.NAME))
    assert len(figure.axes) == 2, "the full method was not trained"
    drawn = [int(axes.images[0].get_array().sum()) for axes in figure.axes]
    layers = list(found["layers"].values())
    assert drawn == [layer["kept"] for layer in layers[:2]]
    (path,) = tables.write_tables([tiny.NAME], (0,), "")
    kept = [picture["file"] for picture in json.loads(path.read_text())["pictures"]]
    assert kept == files, "a table that draws nothing keeps them"
