"""A directory of checkpoints: what is kept, what is found again, what is refused."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_turbovbi.errors import CheckpointError, InvalidArgumentError, StorageError
from pyro_turbovbi.persistence.checkpoints import Checkpoints, CheckpointStore, checkpoint_files
from pyro_turbovbi.persistence.files import DRAFT


def state(step: int) -> dict[str, Any]:
    return {"weight": torch.full((3,), float(step))}


def filled(directory: Path, scores: dict[int, float | None], keep: int = 2) -> CheckpointStore:
    store = CheckpointStore(directory, keep)
    for step, score in scores.items():
        store.write(step, score, state(step))
    return store


def path_of(store: CheckpointStore, step: int) -> Path:
    return store.directory / f"step-{step:09d}.safetensors"


@pytest.mark.parametrize(
    ("scores", "keep", "left"),
    [
        ({0: None}, 2, [0]),
        ({0: None, 10: -5.0, 20: -4.0}, 2, [10, 20]),
        ({0: None, 10: -3.0, 20: -4.0, 30: -5.0}, 2, [10, 20, 30]),
        ({10: -3.0, 20: -4.0, 30: -5.0, 40: -2.0}, 1, [40]),
        ({10: -3.0, 20: -3.0, 30: -5.0}, 1, [20, 30]),
        ({0: None, 5: None, 7: None}, 3, [0, 5, 7]),
    ],
    ids=["one", "latest two", "best and latest two", "best is latest", "ties", "no scores"],
)
def test_the_latest_and_the_best_are_kept(
    scores: dict[int, float | None], keep: int, left: list[int], tmp_path: Path
) -> None:
    store = filled(tmp_path / "deep" / "run", scores, keep)
    assert store.steps == left
    again = CheckpointStore(store.directory, keep)
    newest = again.newest()
    assert newest.step == max(scores)
    assert newest.score == scores[newest.step]
    assert torch.equal(newest.state["weight"], state(newest.step)["weight"])
    assert again.best_step == store.best_step
    if store.best_step is None:
        with pytest.raises(CheckpointError, match="no intact checkpoint"):
            again.best()
    else:
        assert again.best().step == store.best_step
    again.write(100, -9.0, state(100))
    assert again.steps[-1] == 100
    assert len(again.steps) <= keep + 1


def test_clearing_leaves_what_is_no_checkpoint(tmp_path: Path) -> None:
    store = filled(tmp_path / "run", {0: None, 10: -5.0})
    notes = store.directory / "notes.txt"
    notes.write_text("of the user")
    store.clear()
    assert list(store.directory.iterdir()) == [notes]
    notes.unlink()
    store.clear()
    assert not store.directory.exists()
    assert checkpoint_files(store.directory) == []


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "bit":
        content[-1] ^= 1
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b""}.get(how, content))


@pytest.mark.parametrize("how", ["bit", "cut", "empty"])
def test_a_damaged_one_is_left_out_for_the_one_before(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = filled(tmp_path, {10: -3.0, 20: -2.0, 30: -4.0})
    damage(path_of(store, 30), how)
    again = CheckpointStore(tmp_path, 2)
    with caplog.at_level(logging.WARNING, logger="pyro_turbovbi"):
        assert again.newest().step == 20
    (record,) = caplog.records
    message = record.getMessage()
    assert f"{path_of(store, 30)} is left out: the file" in message
    assert "damaged" in message
    again.write(25, -5.0, state(25))
    again.write(28, -6.0, state(28))
    assert again.steps == [20, 25, 28, 30], "a damaged one takes nobody's place"
    again.write(30, -7.0, state(30))
    assert again.newest().step == 30


def test_none_intact_is_an_error_and_no_new_start(tmp_path: Path) -> None:
    store = filled(tmp_path, {10: -3.0, 20: -2.0})
    for step in (10, 20):
        damage(path_of(store, step), "bit")
    with pytest.raises(CheckpointError, match="2 damaged or unfit ones in"):
        CheckpointStore(tmp_path, 2).newest()
    with pytest.raises(CheckpointError, match="0 damaged"):
        CheckpointStore(tmp_path / "empty", 2).newest()


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_keeps_all_earlier_ones(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, {10: -3.0, 20: -4.0, 30: -5.0})

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(call, full)
        with pytest.raises(StorageError, match="No space left"):
            store.write(40, -1.0, state(40))
    assert store.steps == [10, 20, 30]
    assert store.best_step == 10
    assert CheckpointStore(tmp_path, 2).newest().step == 30
    store.write(50, -6.0, state(50))
    assert store.steps == [10, 30, 50]


def test_an_old_one_that_cannot_be_removed_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, {10: -9.0, 20: -4.0})
    remove = Path.unlink

    def read_only(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("step"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        remove(path, missing_ok)

    monkeypatch.setattr("pathlib.Path.unlink", read_only)
    with pytest.raises(StorageError, match="an old checkpoint cannot be removed: Read-only"):
        store.write(30, -5.0, state(30))
    assert store.steps == [10, 20, 30], "what was to be written is there"


def test_a_directory_that_cannot_be_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="the directory cannot be made"):
        CheckpointStore(tmp_path / "file", 2)


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    own = [tmp_path / name for name in ("notes.txt", "step-1.safetensors", f"own{DRAFT}")]
    for path in own:
        path.write_text("mine")
    half = tmp_path / f".step-000000007.safetensors.0123{DRAFT}"
    half.write_text("half")
    store = filled(tmp_path, {10: -3.0, 20: -2.0, 30: -1.0})
    assert store.steps == [20, 30]
    assert not half.exists(), "what an interrupted write left"
    assert all(path.read_text() == "mine" for path in own)


@pytest.mark.parametrize("setting", [{"keep": 0}, {"every_steps": 0}, {"keep": -1}])
def test_settings_out_of_range_are_refused(setting: dict[str, int]) -> None:
    (name,) = setting
    with pytest.raises(InvalidArgumentError, match=f"{name} of checkpoints is out of range"):
        Checkpoints("run", **setting)  # type: ignore[arg-type]
