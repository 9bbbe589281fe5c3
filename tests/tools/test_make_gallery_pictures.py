"""Every file of the gallery has a picture, small and on record."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from matplotlib.figure import Figure

from tests.gallery.loading import files, load

FILES = [*files("models"), *files("guides")]
LARGEST = 60_000


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    return load("tools", "make_gallery_pictures")


def test_every_file_can_be_drawn(pictures: ModuleType) -> None:
    assert sorted(FILES) == sorted([*pictures.MODELS, *pictures.GUIDES])


def test_every_picture_has_a_caption_and_is_small(pictures: ModuleType) -> None:
    drawn = {file.stem: file for file in pictures.PICTURES.glob("*.png")}
    assert sorted(drawn) == list(json.loads(pictures.CAPTIONS.read_text()))
    assert set(drawn) <= set(FILES)
    for file in drawn.values():
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size < LARGEST


def test_a_picture_and_its_caption_are_written(
    pictures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw() -> object:
        figure: Figure = pictures.support_figure({"0.weight": torch.eye(3)}, columns=2, height=2)
        return pictures.Picture(figure, "3 of 9 weights left.")

    monkeypatch.setattr(pictures, "PICTURES", tmp_path)
    monkeypatch.setattr(pictures, "CAPTIONS", tmp_path / "captions.json")
    monkeypatch.setitem(pictures.MODELS, "net", draw)
    (tmp_path / "captions.json").write_text('{"zebra": "kept"}')
    pictures.main(["net"])
    assert (tmp_path / "net.png").stat().st_size > 0
    assert json.loads((tmp_path / "captions.json").read_text()) == {
        "net": "3 of 9 weights left.",
        "zebra": "kept",
    }


def test_a_predictive_has_the_variance_of_a_mixture(pictures: ModuleType) -> None:
    """Two draws, means 0 and 2, unit noise: variance 1 + 1."""

    class Fit:
        """As much of a fit as is needed."""

        class bnn:  # noqa: N801
            likelihood = pictures.likelihoods.Gaussian(scale=1.0, learn=False)

        @staticmethod
        def predict(x: torch.Tensor, num_samples: int) -> object:
            return type("Prediction", (), {"outputs": torch.tensor([[[0.0]], [[2.0]]])})

    mean, scale = pictures._moments(Fit(), torch.zeros(1, 1))
    assert mean.tolist() == [1.0]
    assert scale.tolist() == pytest.approx([2.0**0.5])
