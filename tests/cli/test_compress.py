"""`ptv compress`: the file holds what the fit's own `compress` gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pyro_turbovbi
from pyro_turbovbi.cli.compress import compress_run
from pyro_turbovbi.cli.runs import Run
from pyro_turbovbi.errors import InvalidArgumentError
from tests.cli.helpers import MLP, RECIPE, fitted, ptv


@pytest.fixture
def run(here: Path) -> Path:
    return fitted(here, MLP + RECIPE.split("\n", 3)[3])


def test_the_file_is_the_compressed_fit(run: Path) -> None:
    done = ptv("compress", run)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.endswith(
        'bytes; in Python, ptv.load("run/net.ptv")\n'
        "its inputs: (x - input_mean) / input_scale, by the numbers that --json prints\n"
    )
    _, _, made, fit = Run(run).load()
    x = made.data.test.x
    with torch.no_grad():
        expected = fit.compress(made.train).module(x)
        assert torch.equal(pyro_turbovbi.load(run / "net.ptv")(x), expected)


def test_options_and_json(run: Path) -> None:
    pytest.importorskip("constriction")
    arguments = ("--out", "x.ptv", "--tolerance", "0.1", "--uncertainty", "--reorder", "--json")
    done = ptv("compress", run, *arguments)
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["file"] == "x.ptv"
    assert printed["file_bytes"] == Path("x.ptv").stat().st_size
    assert printed["report"]["coding"] == "compact"
    assert pyro_turbovbi.load_posterior("x.ptv").scales


def test_what_cannot_be_done(run: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="there is no such directory; given: no"):
        compress_run(run, Path("no/net.ptv"))
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("target: price", "target: price, validation: 0"))
    with pytest.raises(InvalidArgumentError, match="no validation data to round the weights by"):
        compress_run(run, tolerance=0.1)
