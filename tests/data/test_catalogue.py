from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from pyro_turbovbi import data
from pyro_turbovbi.data.catalogue import catalogue, find
from pyro_turbovbi.errors import DataNotFoundError, InvalidArgumentError


def test_every_loader_is_in_the_catalogue(tmp_path: Path) -> None:
    loaders = {name for name in data.__all__ if inspect.isfunction(getattr(data, name))}
    assert {each.name for each in catalogue(tmp_path)} == loaders - {"augment", "download"}


def test_what_is_found_and_what_is_not(tmp_path: Path) -> None:
    for name in ("digits", "diabetes"):
        assert find(name, tmp_path).found == "comes with scikit-learn"
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100", "uci"):
        said = f"the data set {name!r} is not on this machine; accepted: `ptv data get {name}`; or "
        with pytest.raises(DataNotFoundError, match=said):
            find(name, tmp_path)
    (tmp_path / "uci" / "yacht").mkdir(parents=True)
    (tmp_path / "uci" / "yacht" / "data.txt").write_text("1 2\n")
    assert find("uci", tmp_path).found == f"{tmp_path / 'uci'}: yacht"
    with pytest.raises(InvalidArgumentError, match="unknown data set; given: x; accepted: digits,"):
        find("x", tmp_path)
