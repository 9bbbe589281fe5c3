from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_turbovbi.data import image_folder, npz_file
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    StorageError,
    UnsupportedError,
)


def picture(path: Path, shade: int, size: tuple[int, int] = (4, 3)) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.new("L", size, shade).save(path)


# Arrays ----------------------------------------------------------------------------------------


def test_arrays_are_divided_and_keep_their_kind(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(20.0).reshape(10, 2), y=np.arange(10))
    splits = npz_file(tmp_path / "a.npz", validation=0.2, test=0.3)
    assert [len(part.x) for part in splits] == [5, 2, 3]
    assert splits.train.y.dtype == torch.int64
    x, y = (torch.cat([getattr(part, name) for part in splits]) for name in "xy")
    assert sorted(y.tolist()) == list(range(10))
    assert torch.equal(x, torch.stack([2.0 * y, 2.0 * y + 1.0], dim=1))
    again = npz_file(tmp_path / "a.npz", validation=0.2, test=0.3)
    assert torch.equal(again.test.y, splits.test.y)
    other = npz_file(tmp_path / "a.npz", validation=0.2, test=0.3, seed=1)
    assert not torch.equal(other.train.y, splits.train.y)


def test_real_targets_stay_real(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((5, 2), dtype=np.uint8), y=np.linspace(0, 1, 5))
    splits = npz_file(tmp_path / "a.npz")
    assert splits.train.x.dtype == splits.train.y.dtype == torch.float32


def test_what_is_no_archive_of_x_and_y(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(StorageError, match="cannot be read: No such file or directory"):
        npz_file(path)
    np.savez(path, x=np.ones(3), z=np.ones(3))
    with pytest.raises(InvalidDataError, match=r"has no array 'y'; given: .*; accepted: x and y"):
        npz_file(path)
    np.savez(path, x=np.ones((3, 2)), y=np.ones(4))
    with pytest.raises(ShapeError, match=r"given: \(3, 2\) and \(4,\); accepted: the same first"):
        npz_file(path)
    np.savez(path, x=np.ones((3, 2)) * 1j, y=np.ones(3))
    with pytest.raises(InvalidDataError, match="holds no real numbers; given: complex128"):
        npz_file(path)
    np.savez(path, x=np.ones((3, 2)), y=np.array(["a", "b", "c"]))
    with pytest.raises(InvalidDataError, match="holds no real numbers; given: float64 and <U1"):
        npz_file(path)
    np.savez(path, x=np.ones((3, 2)), y=np.array([None, 1, 2], dtype=object))
    with pytest.raises(InvalidDataError, match="is no NumPy archive"):
        npz_file(path)
    for content in (b"", b"no archive", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(InvalidDataError, match="is no NumPy archive"):
            npz_file(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(InvalidDataError, match="is no NumPy archive"):
        npz_file(path)


# Images ----------------------------------------------------------------------------------------


def test_a_folder_a_class(tmp_path: Path) -> None:
    for number in range(5):
        picture(tmp_path / "dark" / f"{number}.png", number)
        picture(tmp_path / "light" / f"{number}.PNG", 250 + number)
    (tmp_path / "light" / "notes.txt").write_text("no image")
    (tmp_path / "notes").mkdir()
    splits = image_folder(tmp_path, channels=1, test=0.2, validation=0.2)
    assert [len(part.x) for part in splits] == [6, 2, 2]
    assert splits.train.x.shape[1:] == (1, 3, 4)
    assert (splits.classes, splits.pixels) == (("dark", "light"), True)
    for part in splits:
        assert torch.equal(part.y, (part.x.amax((1, 2, 3)) > 0.5).long())
    assert image_folder(tmp_path).train.x.shape[1:] == (3, 3, 4)
    assert image_folder(tmp_path, (8, 2)).train.x.shape[1:] == (3, 8, 2)


def test_a_division_by_folders_is_kept(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / "train" / "dark" / f"{number}.png", 0)
        picture(tmp_path / "train" / "light" / f"{number}.png", 255)
    picture(tmp_path / "test" / "light" / "a.png", 255)
    splits = image_folder(tmp_path)
    assert [len(part.x) for part in splits] == [7, 1, 1]
    assert splits.test.y.tolist() == [1], "its class is the one of the training images"
    picture(tmp_path / "test" / "grey" / "a.png", 127)
    with pytest.raises(InvalidDataError, match="without training images; given: grey; accepted: d"):
        image_folder(tmp_path)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="the folder cannot be read: No such file or directory"):
        image_folder(tmp_path / "missing")
    with pytest.raises(InvalidDataError, match="no two classes of images; given: folders with ima"):
        image_folder(tmp_path)
    picture(tmp_path / "a" / "1.png", 0)
    picture(tmp_path / "b" / "1.png", 0, (5, 3))
    with pytest.raises(InvalidDataError, match="have several sizes; given: 3x4, 3x5; accepted: i"):
        image_folder(tmp_path)
    with pytest.raises(InvalidArgumentError, match="channels is unknown; given: 2; accepted: 1, 3"):
        image_folder(tmp_path, channels=2)
    (tmp_path / "b" / "1.png").write_bytes(b"no image")
    with pytest.raises(InvalidDataError, match=r"1.png is no image that can be read"):
        image_folder(tmp_path)
    for part in ("train", "test"):
        for name in "ab":
            for number in range(2):
                size = (4, 3) if part == "train" else (4, 4)
                picture(tmp_path / "two" / part / name / f"{number}.png", 0, size)
    with pytest.raises(InvalidDataError, match="different sizes; given: 3x4 and 4x4; accepted: im"):
        image_folder(tmp_path / "two")


def test_without_pillow_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        picture(tmp_path / name / "1.png", 0)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UnsupportedError, match=r"pip install \"pyro-turbovbi\[data\]\""):
        image_folder(tmp_path)
