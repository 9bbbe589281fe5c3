"""Where data sets come from: every file has an address and a checksum, and loaders read them."""

from __future__ import annotations

import hashlib
import re

import pytest

from pyro_turbovbi.data.location import data_roots
from pyro_turbovbi.data.mnist import FILES
from pyro_turbovbi.data.sources import Source, find_sources, sources
from pyro_turbovbi.errors import InvalidArgumentError
from tests.data_required import needs_data


@pytest.mark.parametrize("source", sources().values(), ids=list(sources()))
def test_every_source_is_whole(source: Source) -> None:
    assert source.files
    fetched = (source.archive,) if source.archive else source.files
    assert set(source.sha256) == set(fetched)
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in source.sha256.values())
    assert all(re.fullmatch(r"https?://[\w./~-]+/", url) for url in source.urls)


def test_names() -> None:
    assert list(sources())[:5] == [
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "uci/bostonHousing",
    ]
    assert [source.name for source in find_sources("uci/yacht")] == ["uci/yacht"]
    assert len(find_sources("uci")) == 9
    with pytest.raises(InvalidArgumentError) as caught:
        find_sources("uci/boat")
    assert str(caught.value) == (
        "there is nothing to fetch for this name; given: uci/boat; accepted: mnist, fashion_mnist, "
        "cifar10, cifar100, uci/bostonHousing, uci/concrete, uci/energy, uci/kin8nm, "
        "uci/naval-propulsion-plant, uci/power-plant, uci/protein-tertiary-structure, "
        "uci/wine-quality-red, uci/yacht, uci"
    )


def test_what_is_fetched_is_what_loaders_read() -> None:
    assert sources()["mnist"].files == sources()["fashion_mnist"].files == FILES
    yacht = sources()["uci/yacht"].files
    assert {"data.txt", "index_features.txt", "index_target.txt", "index_test_19.txt"} < set(yacht)
    assert len(yacht) == 3 + 2 * 20
    assert len(sources()["uci/protein-tertiary-structure"].files) == 3 + 2 * 5


@pytest.mark.parametrize("name", ["uci/yacht", "uci/bostonHousing"])
def test_checksums_are_those_of_the_files(name: str) -> None:
    needs_data(name)
    (directory,) = (root / name for root in data_roots() if (root / name).is_dir())
    for file, checksum in sources()[name].sha256.items():
        assert hashlib.sha256((directory / file).read_bytes()).hexdigest() == checksum, file
