"""`ptv data`: what is there, as text and as one object; and fetching what is not."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyro_turbovbi.data import downloads
from pyro_turbovbi.data.sources import Source, sources
from tests.cli.helpers import ptv
from tests.data.serving import Served, serving


@pytest.fixture
def roots(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, where alone loaders look."""
    monkeypatch.setenv("PYRO_TURBOVBI_DATA", str(here))
    return here


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server that has MNIST, or what it takes for it."""
    monkeypatch.setenv("no_proxy", "*")
    files = sources()["mnist"].files
    with serving() as served:
        served.files |= {name: name.encode() for name in files}
        sums = {name: hashlib.sha256(name.encode()).hexdigest() for name in files}
        source = Source("mnist", "mnist", files, (served.url,), sums)
        monkeypatch.setattr(downloads, "find_sources", lambda name: (source,))
        yield served


def test_the_list_says_where_sets_are(roots: Path) -> None:
    (roots / "uci" / "yacht").mkdir(parents=True)
    (roots / "uci" / "yacht" / "data.txt").write_text("1 2\n")
    done = ptv("data", "list")
    assert done.exit_code == 0
    lines = [line.strip() for line in done.stdout.splitlines()]
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100"):
        assert f"not here; ptv data get {name}" in lines
    assert f"{roots / 'uci'}: yacht" in lines
    sets = json.loads(ptv("data", "list", "--json").stdout)["sets"]
    found = {each["name"]: each["found"] for each in sets}
    assert found["mnist"] is None
    assert found["digits"] == found["diabetes"] == "comes with scikit-learn"


def test_what_is_not_fetched_is_looked_up(roots: Path) -> None:
    for name in ("digits", "diabetes"):
        assert "comes with scikit-learn" in ptv("data", "get", name).stdout


@pytest.mark.parametrize("options", [[], ["--to", "there"]])
def test_getting_one_fetches_it_and_says_where_it_is(
    options: list[str], roots: Path, server: Served
) -> None:
    place = roots / options[-1] if options else roots
    for _ in range(2):
        done = ptv("data", "get", "mnist", *options)
        assert (done.exit_code, done.stderr) == (0, "")
        assert str(Path(*options[1:]) / "mnist" if options else place / "mnist") in done.stdout
    assert len(server.asked) == 4
    assert sorted(path.name for path in (place / "mnist").iterdir()) == sorted(server.files)
    told = json.loads(ptv("data", "get", "mnist", *options, "--json").stdout)
    assert told["sets"][0]["name"] == "mnist"


def test_what_cannot_be_fetched_is_one_line(roots: Path, server: Served) -> None:
    server.files.clear()
    done = ptv("data", "get", "mnist")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: {server.url}train-images-idx3-ubyte.gz cannot be fetched: 404 Not Found; "
        f"accepted: a connection to it; or that file by hand, in {roots}/mnist\n"
    )
    assert not list(roots.iterdir())


def test_ctrl_c_says_what_is_kept(
    roots: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, fsync = list(server.files), os.fsync

    def interrupt(descriptor: int) -> None:
        fsync(descriptor)
        if len(server.asked) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    done = ptv("data", "get", "mnist")
    assert done.exit_code == 130
    assert done.stderr == (
        "interrupted; files that are complete are kept; to go on, give the same command again\n"
    )
    assert [path.name for path in (roots / "mnist").iterdir()] == files[:1]


def test_a_loader_names_the_command_and_fetches_nothing(roots: Path, server: Served) -> None:
    done = ptv("init", "new", "--data", "mnist")
    assert done.exit_code == 1
    assert "accepted: `ptv data get mnist`; or a directory with train-images" in done.stderr
    assert not server.asked
