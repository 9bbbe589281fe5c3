from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from pyro_turbovbi import data, load
from pyro_turbovbi.cli import demo
from pyro_turbovbi.cli.demo import INDEPENDENT, MARKOV, RECIPES, run_demo
from pyro_turbovbi.cli.interruption import Interrupted
from pyro_turbovbi.data import Splits, TensorPair
from pyro_turbovbi.diagnostics import Comparison
from pyro_turbovbi.diagnostics.comparison import ComparisonRow
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError

PICTURES = ("support_before_after", "support_side_by_side", "elbo", "error_against_size")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits recipe with a narrower network and few steps."""
    narrow = dataclasses.replace(RECIPES["digits"], widths=(64, 20, 10, 10), batch_size=256)
    monkeypatch.setattr(demo, "RECIPES", {"digits": narrow})


@pytest.mark.usefixtures("short")
def test_the_demo_compares_four_fits_and_leaves_pictures_and_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    out = tmp_path / "new" / "directory"
    comparison = run_demo("digits", out, epochs=2)
    assert torch.get_num_threads() == threads
    rows = {row.name: row for row in comparison.rows}
    assert list(rows) == ["MAP", "SVI, Gaussian", INDEPENDENT, MARKOV]
    assert all(row.error is not None and row.pruned is not None for row in rows.values())
    assert (rows["MAP"].elbo, rows[MARKOV].elbo_kind) == (None, "bound")
    for name in PICTURES:
        assert imread(out / f"{name}.png").std() > 0.01
    assert json.loads((out / "comparison.json").read_text())["rows"][0]["name"] == "MAP"
    test = data.digits().test
    with torch.no_grad():
        error = (load(out / "net.ptv")(test.x).argmax(1) != test.y).double().mean().item()
    assert error == pytest.approx(rows[MARKOV].pruned, abs=1e-9)
    assert (out / "net.ptv").stat().st_size == rows[MARKOV].bytes
    assert {row.coding for row in rows.values()} == {"compact"}
    left = rows[MARKOV].weights_left
    printed, shown = capsys.readouterr()
    assert shown == "", "no bar where there is no terminal"
    assert (out / "comparison.txt").read_text() == f"{comparison}\n"
    assert f"loaded again, it reads {1 - error:.2%} of the test images right" in " ".join(
        printed.split()
    )
    told = next(line for line in printed.splitlines() if line.startswith(f"{MARKOV}  ")).split()
    assert told[3:6] == [f"{100 * x:.2f}" for x in (rows[MARKOV].error, error, left)]
    assert max(len(line) for line in printed.splitlines() if str(out) not in line) <= 80


def test_after_ctrl_c_the_files_that_are_there_are_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*_args: object, **_options: object) -> Any:
        raise KeyboardInterrupt

    compared = Comparison((ComparisonRow("MAP", "map", num_points=1, seconds=0.0, nll=0.0),))
    monkeypatch.setattr(demo, "_fit_all", lambda *_args: {})
    monkeypatch.setattr(demo, "compare", lambda *_args, **_options: compared)
    with pytest.raises(KeyError, match=INDEPENDENT):  # there is nothing to compress
        run_demo("digits", tmp_path / "whole")
    monkeypatch.setattr("os.fsync", stopping)
    with pytest.raises(Interrupted, match=r"half are complete, but not all; the same command"):
        run_demo("digits", tmp_path / "half")
    with pytest.raises(KeyboardInterrupt):
        demo._save(Figure(), tmp_path / "half" / "picture.png")
    names = {file.name: file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
    assert names == {
        "comparison.json": compared.to_json() + "\n",
        "comparison.txt": f"{compared}\n",
    }


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_seed_gives_the_same_numbers_again(tmp_path: Path) -> None:
    first, second = (run_demo("digits", tmp_path, epochs=1, seed=3).rows for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert (one.error, one.nll, one.elbo) == (other.error, other.nll, other.elbo)


@pytest.mark.slow
def test_mnist_uses_its_own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)

    def images(points: int) -> TensorPair:
        y = torch.arange(points) % 10
        return TensorPair(torch.rand(points, 784, generator=generator), y)

    def fake(**arguments: int) -> Splits:
        assert arguments == {"seed": 4}
        return Splits(images(256), images(20), images(30))

    monkeypatch.setattr(data, "mnist", fake)
    comparison = run_demo("mnist", tmp_path, epochs=1, seed=4)
    assert comparison.rows[1].structure == "784-300-100"
    assert comparison.rows[0].num_points == 30
    assert (tmp_path / "net.ptv").is_file()


def test_what_cannot_work_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgumentError, match="given: cifar; accepted: digits, mnist"):
        run_demo("cifar", tmp_path)
    with pytest.raises(InvalidArgumentError, match=r"cannot be made; given: .*file"):
        run_demo("digits", tmp_path / "file")
    with pytest.raises(InvalidArgumentError, match="epochs is out of range"):
        run_demo("digits", tmp_path, epochs=0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UnsupportedError, match=r"given: constriction, matplotlib, sklearn; accepted: .*demo"
    ):
        run_demo("digits", tmp_path)


@pytest.mark.slow
def test_the_full_demo_shows_what_it_is_meant_to_show(tmp_path: Path) -> None:
    rows = {row.name: row for row in run_demo("digits", tmp_path).rows}
    for row in rows.values():
        assert row.error is not None
        assert row.error < 0.08
    independent, markov = rows[INDEPENDENT], rows[MARKOV]
    assert markov.error is not None
    assert markov.pruned is not None
    assert markov.weights_left is not None
    assert markov.clusters is not None
    assert independent.clusters is not None
    assert abs(markov.pruned - markov.error) < 0.02
    assert markov.weights_left < 0.04
    assert markov.clusters < 0.85 * independent.clusters
