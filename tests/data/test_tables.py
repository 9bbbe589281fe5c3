from __future__ import annotations

import datetime
import decimal
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pyro_turbovbi.data import csv_file, parquet_file
from pyro_turbovbi.data.tables import read_columns
from pyro_turbovbi.errors import InvalidDataError, StorageError, UnsupportedError


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def columns(path: Path, **values: Any) -> Path:
    """A Parquet file of columns."""
    pq.write_table(pa.table(values), path)
    return path


# CSV -------------------------------------------------------------------------------------------


def test_a_table_is_standardised_by_its_training_rows(tmp_path: Path) -> None:
    rows = [f"{i},{10 * i + 5},7" for i in range(10)]
    splits = csv_file(table(tmp_path / "a.csv", "a, price ,constant", *rows), "price")
    assert [len(part.x) for part in splits] == [8, 1, 1]
    x, y = splits.train
    torch.testing.assert_close(x.mean(0), torch.zeros(2))
    torch.testing.assert_close(x.std(0, unbiased=False), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(y, x[:, 0])
    everything = torch.cat([part.y for part in splits]) * splits.target_scale + splits.target_mean
    torch.testing.assert_close(everything.sort().values, 10.0 * torch.arange(10) + 5)


@pytest.mark.parametrize(
    ("names", "classes", "expected"),
    [
        (["no", "yes", "maybe"], None, [1, 2, 0]),
        (["10", "9", "-1"], True, [2, 1, 0]),
        (["10", "9", "x"], True, [0, 1, 2]),
    ],
)
def test_classes_are_numbered_in_order(
    names: list[str], classes: bool | None, expected: list[int], tmp_path: Path
) -> None:
    rows = [f"{number},{name}" for number, name in enumerate(names * 4)]
    path = table(tmp_path / "a.csv", "number,name", *rows)
    splits = csv_file(path, "name", classes=classes, validation=0.0, test=0.0)
    order = splits.train.x[:, 0].argsort()
    assert splits.train.y[order].tolist() == expected * 4
    assert splits.train.y.dtype == torch.int64
    assert (splits.target_mean, splits.target_scale) == (0.0, 1.0)
    assert splits.classes is not None
    assert [splits.classes[label] for label in expected] == names
    assert (splits.columns, splits.target) == (("number",), "name")


BAD_TABLES = {
    "no such column": (["a,b", "1,2"], " has no column 'c'; accepted: a, b"),
    "one column": (["c", "1"], " has one column alone; accepted: inputs beside the target"),
    "no rows": (["a,c"], " is no table; given: 1 lines; accepted: a header and rows"),
    "empty": ([""], " is no table; given: 0 lines; accepted: a header and rows"),
    "twice": (["a,a,c", "1,2,3"], " names a column twice; given: ['a', 'a', 'c']"),
    "short row": (
        ["a,b,c", "1,2,3", "", "4,5"],
        ", line 4 does not fit the header; given: 2 values; accepted: 3 values",
    ),
    "text": (
        ["a,c", "1,2", "Rome,3"],
        ", line 3, column 'a' holds no finite number; given: 'Rome'; accepted: a number; classes "
        "as text are for the target alone",
    ),
    "missing": (
        ["a,c", ",2"],
        ", line 2, column 'a' holds no finite number; given: ''; accepted: a number; classes "
        "as text are for the target alone",
    ),
    "NaN": (
        ["a,c", "nan,2"],
        ", line 2, column 'a' holds no finite number; given: 'nan'; accepted: a number; classes "
        "as text are for the target alone",
    ),
    "a target that is missing": (
        ["a,c", "1,2", "2,"],
        ", line 3, column 'c' holds no finite number; given: ''; accepted: a number; classes "
        "as text are for the target alone",
    ),
    "a target of numbers and text": (
        ["a,c", "1,2", "2,yes"],
        ", line 3, column 'c' holds no finite number; given: 'yes'; accepted: numbers alone, or "
        "text alone; classes=True (ptv init --classes) takes both for classes",
    ),
    "a class that is missing": (
        ["a,c", "1,yes", "2,"],
        ", line 3, column 'c' is empty; given: ''; accepted: a class",
    ),
}


@pytest.mark.parametrize(("lines", "message"), BAD_TABLES.values(), ids=list(BAD_TABLES))
def test_bad_tables(lines: list[str], message: str, tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", *lines)
    with pytest.raises(InvalidDataError) as caught:
        csv_file(path, "c")
    assert str(caught.value) == f"{path}{message}"


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read: No such file or directory"):
        csv_file(tmp_path / "a.csv", "c")
    (tmp_path / "a.csv").write_bytes(b"a,c\n\xff\xfe,1\n")
    with pytest.raises(InvalidDataError, match="is no table; given: 'utf-8' codec can't decode"):
        csv_file(tmp_path / "a.csv", "c")


# Parquet ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["price", "name"])
def test_a_parquet_file_gives_what_the_same_table_in_a_csv_file_gives(
    target: str, tmp_path: Path
) -> None:
    size, price = [3, 1, 4, 1, 5, 9, 2, 6, 5, 4], [0.5 * n for n in range(10)]
    name = ["red", "green"] * 5 if target == "name" else [-1.5, 2.25] * 5
    rows = [f"{a},{b},{c}" for a, b, c in zip(size, price, name, strict=True)]
    text = table(tmp_path / "a.csv", "size,price,name", *rows)
    binary = columns(tmp_path / "a.parquet", size=size, price=price, name=name)
    expected, found = (
        csv_file(text, target, validation=0.2, seed=3),
        parquet_file(binary, target, validation=0.2, seed=3),
    )
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.y, other.y)
        assert one.y.dtype == other.y.dtype
    assert expected.target_scale == found.target_scale


def test_every_type_of_number_is_an_input(tmp_path: Path) -> None:
    path = columns(
        tmp_path / "a.parquet",
        small=pa.array([1, 0, 3], pa.uint8()),
        half=pa.array([1, 0, 3], pa.float32()),
        money=[decimal.Decimal(number) for number in ("1.00", "0.00", "3.00")],
        text=["1", "0", "3"],
        repeated=pa.array(["1", "0", "3"]).dictionary_encode(),
        flag=[True, False, False],
        y=[1.0, 2.0, 3.0],
    )
    x, _ = parquet_file(path, "y", validation=0.0, test=0.0).train
    assert x.shape == (3, 6)
    torch.testing.assert_close(x[:, :5], x[:, :1].expand(3, 5))
    torch.testing.assert_close(x[:, 5] > 0, x[:, 5] == x[:, 5].max())
    assert (x[:, 5] > 0).sum() == 1


@pytest.mark.parametrize(
    ("target", "classes", "expected"),
    [
        ([True, False], None, [1, 0]),
        (["b", "a"], None, [1, 0]),
        ([10, 9], True, [1, 0]),
        ([10.0, 9.5], True, [1, 0]),
        (pa.array(["b", "a"]).dictionary_encode(), None, [1, 0]),
    ],
    ids=["truth", "text", "integers", "floats", "categories"],
)
def test_classes_of_a_parquet_file(
    target: Any, classes: bool | None, expected: list[int], tmp_path: Path
) -> None:
    path = columns(tmp_path / "a.parquet", x=[0.0, 1.0], y=target)
    train = parquet_file(path, "y", classes=classes, validation=0.0, test=0.0).train
    assert train.y[train.x[:, 0].argsort()].tolist() == expected
    assert train.y.dtype == torch.int64


def test_columns_are_read_by_name(tmp_path: Path) -> None:
    text = table(tmp_path / "a.csv", "a,when,b", "1,now,2", "3,then,4")
    binary = columns(
        tmp_path / "a.parquet", a=[1, 3], when=[datetime.date(2020, 1, 1)] * 2, b=[2, 4]
    )
    for path in (text, binary):
        assert read_columns(path, ("b", "a")).tolist() == [[2.0, 1.0], [4.0, 3.0]]
        with pytest.raises(InvalidDataError) as caught:
            read_columns(path, ("a", "whem"))
        assert str(caught.value) == (
            f"{path} has no column 'whem' (is it 'when'?); given: a, when, b; accepted: a table "
            "with the columns a, whem"
        )


BAD_COLUMNS = {
    "no such column": ({"a": [1], "b": [2]}, " has no column 'c'; accepted: a, b"),
    "one column": ({"c": [1]}, " has one column alone; accepted: inputs beside the target"),
    "no rows": (
        {"a": pa.array([], pa.int8())},
        " is no table; given: 0 rows; accepted: a header and rows",
    ),
    "text": (
        {"a": ["1", "Rome"], "c": [1, 2]},
        ", row 2, column 'a' holds no finite number; given: 'Rome'; accepted: a number; classes "
        "as text are for the target alone",
    ),
    "a missing number": (
        {"a": [1, None], "c": [1, 2]},
        ", row 2, column 'a' holds no finite number; given: nan; accepted: a number; classes "
        "as text are for the target alone",
    ),
    "missing values alone": (
        {"a": [None, None], "c": [1, 2]},
        ", row 1, column 'a' holds no finite number; given: None; accepted: a number; classes "
        "as text are for the target alone",
    ),
    "a missing text": (
        {"a": [1, 2], "c": ["yes", None]},
        ", row 2, column 'c' is empty; given: None; accepted: a class",
    ),
    "a date": (
        {"a": [datetime.date(2020, 1, 1)], "c": [1]},
        ", column 'a' is of a type that is neither number nor text; given: date32[day]; accepted: "
        "integers, floats, decimals, truth values; text for the target",
    ),
    "a list": (
        {"a": [[1, 2]], "c": [1]},
        ", column 'a' is of a type that is neither number nor text; given: list<element: int64>; "
        "accepted: integers, floats, decimals, truth values; text for the target",
    ),
}


@pytest.mark.parametrize(("values", "message"), BAD_COLUMNS.values(), ids=list(BAD_COLUMNS))
def test_bad_columns(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = columns(tmp_path / "a.parquet", **values)
    with pytest.raises(InvalidDataError) as caught:
        parquet_file(path, "c")
    assert str(caught.value) == f"{path}{message}"


def test_a_column_may_not_be_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([[1], [2], [3]], names=["a", "a", "c"]), path)
    with pytest.raises(InvalidDataError, match="names a column twice"):
        parquet_file(path, "c")


def test_what_is_no_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(StorageError, match="cannot be read: No such file or directory; given: "):
        parquet_file(path, "c")
    whole = columns(path, a=list(range(1000)), c=[1.5] * 1000).read_bytes()
    for content in (b"", b"a,c\n1,2\n", whole[:-100], whole[:40] + bytes(60) + whole[100:]):
        path.write_bytes(content)
        with pytest.raises(InvalidDataError) as caught:
            parquet_file(path, "c")
        assert str(caught.value) == f"{path} is no Parquet file that can be read"


def test_without_pyarrow_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = columns(tmp_path / "a.parquet", a=[1], c=[1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UnsupportedError) as caught:
        parquet_file(path, "c")
    assert str(caught.value) == (
        f"Parquet files need pyarrow, which is not installed; given: {path}; "
        'accepted: pip install "pyro-turbovbi[data]"'
    )
