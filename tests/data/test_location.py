from __future__ import annotations

from pathlib import Path

import pytest

import pyro_turbovbi.data.location as location
from pyro_turbovbi.data.location import ENVIRONMENT_VARIABLE, data_roots, locate
from pyro_turbovbi.errors import DataNotFoundError
from tests.data_required import needs_data


def _make(root: Path, name: str, *files: str) -> Path:
    directory = root / name
    directory.mkdir(parents=True)
    for file in files:
        (directory / file).write_text("x")
    return directory


def test_an_argument_is_the_only_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "/elsewhere")
    assert data_roots(tmp_path) == (tmp_path,)


def test_the_environment_variable_is_the_only_root_without_an_argument(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "/elsewhere")
    assert data_roots() == (Path("/elsewhere"),)


@pytest.mark.parametrize("value", [None, ""])
def test_default_roots_are_the_cache_and_the_directory_beside_the_checkout(
    value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, value)
    checkout = Path(location.__file__).resolve().parents[2]
    assert data_roots() == (
        tmp_path / ".cache" / "pyro_turbovbi",
        checkout.parent / "shared" / "data",
    )


def test_the_first_root_with_all_files_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        location, "data_roots", lambda root: (tmp_path / "a", tmp_path / "b", tmp_path / "c")
    )
    _make(tmp_path / "a", "set", "one")
    complete = _make(tmp_path / "b", "set", "one", "two")
    _make(tmp_path / "c", "set", "one", "two")
    assert locate("set", ("one", "two"), source="nowhere") == complete


def test_the_message_says_where_it_looked_and_how_to_get_the_data(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError) as caught:
        locate("set", ("one", "two"), root=tmp_path, source="https://example.org")
    assert str(caught.value) == (
        f"the data set 'set' is not on this machine; given: looked in {tmp_path}/set; "
        "accepted: `ptv data get set`; or a directory with one, two (from https://example.org), "
        "placed in one of those or below the directory named by PYRO_TURBOVBI_DATA as set/"
    )
    assert isinstance(caught.value, FileNotFoundError)


def test_a_directory_may_have_another_name_than_its_set(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"`ptv data get set`; .* as files/$"):
        locate("set", ("one",), directory="files", root=tmp_path, source="nowhere")
    there = _make(tmp_path, "files", "one")
    assert locate("set", ("one",), directory="files", root=tmp_path, source="nowhere") == there


def test_needs_data_passes_where_the_set_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    _make(tmp_path, "set")
    needs_data("set")


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_needs_data_skips_at_home_and_fails_in_ci(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="the data set set is absent"):
        needs_data("set")
