"""`ptv data`: what is there, as text and as one object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.helpers import ptv


def test_the_list_says_where_sets_are(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRO_TURBOVBI_DATA", str(here))
    (here / "uci" / "yacht").mkdir(parents=True)
    (here / "uci" / "yacht" / "data.txt").write_text("1 2\n")
    done = ptv("data", "list")
    assert done.exit_code == 0
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "not here; ptv data get mnist" in lines
    assert f"{here / 'uci'}: yacht" in lines
    sets = json.loads(ptv("data", "list", "--json").stdout)["sets"]
    found = {each["name"]: each["found"] for each in sets}
    assert found["mnist"] is None
    assert found["digits"] == "comes with scikit-learn"


def test_getting_one_says_where_it_is_or_how_to_get_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYRO_TURBOVBI_DATA", str(here))
    assert "comes with scikit-learn" in ptv("data", "get", "digits").stdout
    missing = ptv("data", "get", "mnist")
    assert missing.exit_code == 1
    assert missing.stderr.startswith("error: the data set 'mnist' is not on this machine; accepted")
    assert "train-images-idx3-ubyte.gz" in missing.stderr
    assert f"looked in {here / 'mnist'}" in missing.stderr
