from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_turbovbi import data
from pyro_turbovbi.errors import DataNotFoundError, InvalidArgumentError, InvalidDataError
from tests.data_required import needs_data


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Eight rows: features in columns 0, 1 (constant) and 3, target in column 2."""
    directory = tmp_path / "uci" / "tiny"
    directory.mkdir(parents=True)
    rows = np.arange(8.0)
    table = np.stack([rows, np.full(8, 3.0), 10.0 * rows + 5.0, -rows], axis=1)
    np.savetxt(directory / "data.txt", table)
    np.savetxt(directory / "index_features.txt", [0, 1, 3])
    np.savetxt(directory / "index_target.txt", [2])
    np.savetxt(directory / "index_train_0.txt", [7, 1, 2, 3, 4, 5])
    np.savetxt(directory / "index_test_0.txt", [0, 6])
    return tmp_path


def test_rows_and_columns_go_where_the_index_files_say(tiny: Path) -> None:
    splits = data.uci("tiny", 0, tiny, validation=0.0)
    train = np.array([7.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    order = (splits.train.x[:, 0] * train.std() + train.mean()).round()
    assert sorted(order.tolist()) == sorted(train.tolist())
    assert len(splits.validation.x) == 0
    centre, spread = train.mean(), train.std()
    expected = torch.tensor([(0 - centre) / spread, (6 - centre) / spread]).float()
    torch.testing.assert_close(splits.test.x[:, 0], expected)
    torch.testing.assert_close(splits.test.x[:, 2], -expected)
    torch.testing.assert_close(splits.test.y, expected)
    assert torch.equal(splits.train.x[:, 1], torch.zeros(6))


def test_the_scale_comes_from_the_training_points_alone(tiny: Path) -> None:
    splits = data.uci("tiny", 0, tiny, validation=0.4)
    assert [len(part.x) for part in splits] == [4, 2, 2]
    assert splits.train.y.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert splits.train.y.std(unbiased=False).item() == pytest.approx(1.0, abs=1e-6)
    targets = torch.cat([part.y for part in splits]) * splits.target_scale + splits.target_mean
    expected = 10.0 * torch.arange(8.0) + 5.0
    torch.testing.assert_close(targets.sort().values, expected)


def test_types(tiny: Path) -> None:
    for part in data.uci("tiny", 0, tiny):
        assert part.x.dtype == part.y.dtype == torch.float32
        assert part.y.ndim == 1


@pytest.mark.parametrize("validation", [-0.1, 1.0])
def test_a_validation_fraction_outside_its_range_is_refused(validation: float, tiny: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"accepted: \[0, 1\)"):
        data.uci("tiny", 0, tiny, validation=validation)


def test_an_unknown_split_lists_those_that_are_there(tiny: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="accepted: splits 0 to 0"):
        data.uci("tiny", 1, tiny)


def test_an_unknown_name_lists_those_that_are_there(tiny: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"given: tinny; accepted: tiny$"):
        data.uci("tinny", 0, tiny)


def test_absent_sets_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataNotFoundError, match=r"looked in .*uci/yacht; .*`ptv data get uci/yacht`"
    ):
        data.uci("yacht", 0, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("data.txt", "1 2 x 4", "no table of numbers"),
        ("data.txt", "1 2 nan 4", "not finite"),
        ("index_target.txt", "1\n2\n", "must name one column"),
        ("index_test_0.txt", "8\n", "rows that do not exist; given: rows 8 to 8; accepted: 0 to 7"),
        ("index_train_0.txt", "-1\n", "rows that do not exist"),
        ("index_features.txt", "0\n4\n", "columns that do not exist"),
    ],
)
def test_damaged_files_are_refused(file: str, content: str, message: str, tiny: Path) -> None:
    (tiny / "uci" / "tiny" / file).write_text(content)
    with pytest.raises(InvalidDataError, match=message):
        data.uci("tiny", 0, tiny)


@pytest.mark.parametrize(
    ("name", "points", "features"), [("yacht", 308, 6), ("bostonHousing", 506, 13)]
)
def test_real_sets(name: str, points: int, features: int) -> None:
    needs_data(f"uci/{name}")
    splits = data.uci(name, 3)
    assert sum(len(part.x) for part in splits) == points
    assert splits.test.x.shape[1] == features
    assert all(torch.isfinite(part.x).all() for part in splits)
