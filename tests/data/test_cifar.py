from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_turbovbi import data
from pyro_turbovbi.data.cifar import CIFAR10, CIFAR100, CLASSES, Binary
from pyro_turbovbi.errors import DataNotFoundError, InvalidDataError, UnsupportedError
from tests.data_required import needs_data


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another home: tests neither read nor write the user's cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _binary(root: Path) -> Path:
    """Two images a file, all pixels of which say in which file and place the image is."""
    directory = root / "cifar-10-batches-bin"
    directory.mkdir(parents=True)
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]
    for number, name in enumerate(names):
        images = np.full((2, 3, 32, 32), 2 * number, dtype=np.uint8)
        images[1] += 1
        images[:, 2, 3, 5] = 255
        records = [bytes([2 * number % 10]) + images[0].tobytes()]
        records += [bytes([(2 * number + 1) % 10]) + images[1].tobytes()]
        (directory / name).write_bytes(b"".join(records))
    return root


def _jpeg(root: Path, *, level: int = 20) -> Path:
    """Two plain images a class, whose brightness tells class and split: JPEG keeps that exactly."""
    image = pytest.importorskip("PIL.Image")
    directory = root / "cifar10_jpeg"
    directory.mkdir(parents=True)
    with zipfile.ZipFile(directory / "cifar10_jpeg.zip", "w") as file:
        for split, bright in (("train", 0), ("test", 5)):
            for label, name in enumerate(CLASSES):
                buffer = io.BytesIO()
                grey = level * label + bright
                image.new("RGB", (32, 32), (grey, grey, grey)).save(buffer, "JPEG", quality=100)
                for number in range(2):
                    file.writestr(f"{split}/{name}/{number:04}.jpg", buffer.getvalue())
    return root


def _hundred(root: Path) -> Path:
    """Images all pixels of which are their number, in class 3 n and superclass n."""
    directory = root / "cifar-100-binary"
    directory.mkdir(parents=True)
    for name, numbers in (("train.bin", range(8)), ("test.bin", range(8, 11))):
        records = [bytes([n, 3 * n]) + bytes([n]) * 3072 for n in numbers]
        (directory / name).write_bytes(b"".join(records))
    return root


def _pixels(x: torch.Tensor, kind: Binary = CIFAR10) -> torch.Tensor:
    """Normalisation undone: bytes."""
    mean, scale = (torch.tensor(v).view(3, 1, 1) for v in (kind.mean, kind.scale))
    return ((x * scale + mean) * 255).round().to(torch.uint8)


def test_the_binary_version_is_read_in_the_order_of_its_records(tmp_path: Path) -> None:
    splits = data.cifar10(_binary(tmp_path), validation=0)
    assert splits.source == "binary"
    assert [tuple(part.x.shape) for part in splits] == [
        (10, 3, 32, 32),
        (0, 3, 32, 32),
        (2, 3, 32, 32),
    ]
    images = torch.cat([_pixels(part.x) for part in splits])
    order = torch.cat([part.y for part in splits])
    assert sorted(images[:, 0, 0, 0].tolist()) == list(range(12))
    assert torch.equal(images[:, 0, 0, 0] % 10, order.to(torch.uint8))
    assert torch.equal(images[:, 2, 3, 5], torch.full((12,), 255, dtype=torch.uint8))
    assert (images == 255).sum() == 12, "one white value an image, in its own place"


@pytest.mark.parametrize(("coarse", "factor"), [(False, 3), (True, 1)])
def test_a_hundred_classes_or_twenty(coarse: bool, factor: int, tmp_path: Path) -> None:
    splits = data.cifar100(_hundred(tmp_path), validation=2, coarse=coarse)
    assert [len(part.x) for part in splits] == [6, 2, 3]
    for part in splits:
        assert part.x.shape[1:] == (3, 32, 32)
        numbers = _pixels(part.x, CIFAR100).long()
        assert torch.equal(numbers, (part.y // factor).view(-1, 1, 1, 1).expand_as(numbers))
        assert torch.equal(numbers[:, 0, 0, 0] * factor, part.y)
        assert (part.x.dtype, part.y.dtype) == (torch.float32, torch.int64)
    assert splits.source == ""


@pytest.mark.parametrize(
    ("record", "coarse", "largest", "given"),
    [(bytes([0, 100]), False, 99, 100), (bytes([20, 0]), True, 19, 20)],
    ids=["class", "superclass"],
)
def test_labels_that_there_are_not(
    record: bytes, coarse: bool, largest: int, given: int, tmp_path: Path
) -> None:
    file = _hundred(tmp_path) / "cifar-100-binary" / "test.bin"
    file.write_bytes(record + bytes(3072))
    with pytest.raises(InvalidDataError) as caught:
        data.cifar100(tmp_path, validation=0, coarse=coarse)
    assert str(caught.value) == (
        "the images and labels of CIFAR-100 do not fit together; given: 1 images, 1 labels up to "
        f"{given}; accepted: as many labels as images, each from 0 to {largest}"
    )
    file.write_bytes(bytes(3073))
    with pytest.raises(InvalidDataError, match="incomplete; given: 3073 bytes; accepted: a multip"):
        data.cifar100(tmp_path)


def test_jpeg_files_are_decoded_and_labelled(tmp_path: Path) -> None:
    splits = data.cifar10(_jpeg(tmp_path), validation=5)
    assert splits.source == "JPEG"
    assert [len(part.x) for part in splits] == [15, 5, 20]
    for part, bright in zip(splits, (0, 0, 5), strict=True):
        expected = (20 * part.y + bright).to(torch.uint8).view(-1, 1, 1, 1)
        assert torch.equal(_pixels(part.x), expected.expand_as(part.x))
        assert (part.x.dtype, part.y.dtype) == (torch.float32, torch.int64)


def test_the_binary_version_is_preferred(tmp_path: Path) -> None:
    assert data.cifar10(_jpeg(_binary(tmp_path)), validation=0).source == "binary"


def test_decoded_files_are_kept_by_content(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data.cifar10(_jpeg(tmp_path / "a"), validation=0)
    assert len(list(home.rglob("*.npz"))) == 1
    other = data.cifar10(_jpeg(tmp_path / "b", level=10), validation=0)
    assert not torch.equal(first.test.x, other.test.x), "another zip is another data set"
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    again = data.cifar10(tmp_path / "a", validation=0)
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(first.test.y, again.test.y)


@pytest.mark.parametrize("place", [200, -200, 50_000])
def test_a_damaged_copy_is_decoded_again(tmp_path: Path, home: Path, place: int) -> None:
    first = data.cifar10(_jpeg(tmp_path), validation=0)
    (kept,) = home.rglob("*.npz")
    content = bytearray(kept.read_bytes())
    content[place] ^= 0xFF
    kept.write_bytes(content)
    assert torch.equal(data.cifar10(tmp_path, validation=0).train.x, first.train.x)
    kept.write_bytes(b"no zip")
    assert torch.equal(data.cifar10(tmp_path, validation=0).train.x, first.train.x)


def test_without_a_place_to_keep_them_files_are_decoded_every_time(
    tmp_path: Path, home: Path
) -> None:
    home.write_text("a file, in which nothing can be kept")
    assert len(data.cifar10(_jpeg(tmp_path), validation=0).train.x) == 20


def test_without_pillow_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _jpeg(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UnsupportedError, match=r"need Pillow.*pyro-turbovbi\[data\].*batches-bin"):
        data.cifar10(tmp_path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    batch = _binary(tmp_path / "a") / "cifar-10-batches-bin" / "data_batch_3.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(InvalidDataError, match="incomplete; given: 6145 bytes"):
        data.cifar10(tmp_path / "a")
    batch.write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(InvalidDataError, match=r"do not fit together.*labels up to 10"):
        data.cifar10(tmp_path / "a")
    archive = _jpeg(tmp_path / "b") / "cifar10_jpeg" / "cifar10_jpeg.zip"
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("train/lynx/0000.jpg", "no image")
    with pytest.raises(InvalidDataError, match="cannot be read"):
        data.cifar10(tmp_path / "b")
    archive.write_bytes(b"no zip")
    with pytest.raises(InvalidDataError, match="cannot be read"):
        data.cifar10(tmp_path / "b")


def test_an_absent_set_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        DataNotFoundError, match=r"`ptv data get cifar10`; .*-10-batches-bin/ \(from"
    ):
        data.cifar10(tmp_path)
    with pytest.raises(DataNotFoundError, match=r"`ptv data get cifar100`; .* cifar-100-binary/$"):
        data.cifar100(tmp_path)


@pytest.mark.slow
def test_the_real_set() -> None:
    needs_data("cifar10_jpeg")
    splits = data.cifar10()
    assert [len(part.x) for part in splits] == [45_000, 5_000, 10_000]
    assert splits.test.y.bincount().tolist() == [1000] * 10
    x = torch.cat([splits.train.x, splits.validation.x])
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=5e-3, rtol=0)
    torch.testing.assert_close(x.var((0, 2, 3)), torch.ones(3), atol=2e-2, rtol=0)
