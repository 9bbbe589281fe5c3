"""Forms of data: what is kept of them, and that it is the loaders' own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pyro_turbovbi.data import DataForm, Splits, TensorPair, csv_file, diabetes
from pyro_turbovbi.errors import InvalidDataError, ShapeError
from tests.cli.helpers import write_table


def test_raw_inputs_become_what_was_trained_on_even_after_json(tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv")
    splits = csv_file(tmp_path / "table.csv", "price", validation=0.0, test=0.0)
    again = DataForm.from_dict(json.loads(json.dumps(DataForm.of(splits).to_dict())))
    lines = (tmp_path / "table.csv").read_text().splitlines()[1:]
    raw = torch.tensor([[float(cell) for cell in line.split(",")] for line in lines]).double()
    found = again.inputs(raw[:, :2])
    order = found[:, 0].argsort()
    assert torch.allclose(found[order], splits.train.x[splits.train.x[:, 0].argsort()])
    assert found.dtype == torch.float32
    assert (again.columns, again.target, again.classes) == (("size", "age"), "price", None)
    assert (again.target_mean, again.target_scale) == (splits.target_mean, splits.target_scale)


def test_what_is_not_known_changes_nothing() -> None:
    pair = TensorPair(torch.arange(6).view(3, 2), torch.arange(3))
    form = DataForm.of(Splits(pair, pair, pair))
    assert (form.shape, form.dtype, form.input_mean) == ((2,), "int64", None)
    assert torch.equal(form.inputs(pair.x), pair.x)
    nothing = DataForm.from_dict(DataForm.of([pair]).to_dict())
    assert (nothing.shape, nothing.classes, nothing.target_scale) == (None, None, 1.0)
    assert nothing.inputs(pair.x).dtype == torch.float32


def test_names_come_from_the_loader() -> None:
    pytest.importorskip("sklearn")
    form = DataForm.of(diabetes())
    assert form.columns is not None
    assert (form.columns[:3], form.target) == (("age", "sex", "bmi"), "progress")


def test_what_does_not_fit_is_refused() -> None:
    form = DataForm(shape=(2, 3))
    with pytest.raises(ShapeError) as caught:
        form.inputs(torch.zeros(5, 4))
    assert str(caught.value) == (
        "the inputs have another shape than those that were trained on; given: (5, 4); accepted: "
        "(rows, 2, 3)"
    )
    with pytest.raises(InvalidDataError, match="input_mean of the data is damaged; given: "):
        DataForm.from_dict({"input_mean": "a"})


def test_numbers_that_the_type_of_the_net_does_not_hold_are_refused() -> None:
    form = DataForm(shape=(2,))
    x = torch.tensor([[1.0, 2.0], [1.0, 1e300]], dtype=torch.float64)
    with pytest.raises(InvalidDataError, match=r"too large; given: row 2; accepted: .*float32"):
        form.inputs(x)
