"""The look at the data before any training."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors
from pyro_turbovbi.batches import Batch, as_batches
from pyro_turbovbi.checks import check_data, check_targets
from pyro_turbovbi.errors import InvalidDataError, ShapeError, TrainingWarning, UnsupportedError

CPU = torch.device("cpu")
X = torch.randn(10, 4)
Y = torch.randint(3, (10,))


def model(net: nn.Module) -> ptv.BayesianNet:
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.Normal())


def look(net: nn.Module, data: Any = (X, Y)) -> Batch:
    return check_data(model(net), as_batches(data, batch_size=4, shuffle=False), CPU)


class Halves(nn.Module):
    """Two data points become one row."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.reshape(-1, 8))


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.linear(a + b)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), x


def test_good_data_passes_and_the_first_batch_comes_back() -> None:
    first = look(nn.Linear(4, 3))
    assert torch.equal(first.x, X[:4])  # type: ignore[arg-type]
    assert torch.equal(first.y, Y[:4])


@pytest.mark.parametrize("training", [True, False])
def test_looking_changes_nothing(training: bool) -> None:
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    bnn = model(net).train(training)
    before = copy.deepcopy(bnn.state_dict())
    random_state = torch.get_rng_state()
    check_data(bnn, as_batches((X, Y), batch_size=4, shuffle=False), CPU)
    assert all(torch.equal(value, before[name]) for name, value in bnn.state_dict().items())
    assert bnn.training is training
    assert torch.equal(torch.get_rng_state(), random_state)


def test_looking_restores_the_mode_after_an_error() -> None:
    bnn = model(nn.Linear(5, 3)).train()
    with pytest.raises(ShapeError):
        check_data(bnn, as_batches((X, Y), batch_size=4, shuffle=False), CPU)
    assert bnn.training


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("row", [0, 9])
def test_not_finite_inputs_anywhere(value: float, row: int) -> None:
    x = X.clone()
    x[row, 1] = value
    with pytest.raises(InvalidDataError) as error:
        look(nn.Linear(4, 3), (x, Y))
    assert str(error.value) == "input 'x' contains NaN or infinite values; accepted: finite inputs"


def test_a_bad_named_input_is_named() -> None:
    good, bad = {"a": X, "b": X, "y": Y}, {"a": X, "b": X / 0, "y": Y}
    loader: DataLoader[Any] = DataLoader([good, bad], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(InvalidDataError, match="input 'b' contains NaN or infinite values"):
        look(Sum(), loader)


def test_labels_of_the_last_batch_are_checked() -> None:
    y = Y.clone()
    y[-1] = 3
    with pytest.raises(InvalidDataError, match="class labels are out of range"):
        look(nn.Linear(4, 3), (X, y))


FITTING = "inputs of the shape and dtype that the network was written for"
NET, FLOATS = ", a network of torch.float32", "inputs of torch.float32: x.float()"


@pytest.mark.parametrize(
    ("x", "cause", "given", "accepted"),
    [
        (torch.randn(10, 5), "shapes cannot be multiplied", "inputs (4, 5) torch.float32", FITTING),
        (X.double(), "must have the same dtype", f"inputs (4, 4) torch.float64{NET}", FLOATS),
        (torch.zeros(10, 4).long(), "the same dtype", f"inputs (4, 4) torch.int64{NET}", FLOATS),
    ],
)
def test_inputs_that_the_net_cannot_take(x: Tensor, cause: str, given: str, accepted: str) -> None:
    with pytest.raises(ShapeError) as error:
        look(nn.Linear(4, 3), (x, Y))
    message = str(error.value)
    assert message.startswith("the network cannot take a batch of inputs (")
    assert cause in message
    assert message.endswith(f"; given: {given}; accepted: {accepted}")


def test_a_net_in_double_precision_asks_for_doubles() -> None:
    with pytest.raises(ShapeError, match=r"accepted: inputs of torch\.float64: x\.double\(\)$"):
        look(nn.Linear(4, 3).double(), (X, Y))


def test_named_inputs_that_the_net_does_not_know() -> None:
    loader: DataLoader[Any] = DataLoader(
        [{"a": X, "c": X, "y": Y}],  # type: ignore[arg-type]
        batch_size=None,
    )
    with pytest.raises(ShapeError, match=r"'c'.*given: inputs a \(10, 4\), c \(10, 4\)"):
        look(Sum(), loader)


def test_rows_that_do_not_match() -> None:
    with pytest.raises(ShapeError) as error:
        look(Halves())
    assert str(error.value) == (
        "inputs, output and targets of a batch have different numbers of rows; "
        "given: targets (4,), output (2, 3), input 'x' (4, 4); "
        "accepted: one row per data point in all of them"
    )
    loader: DataLoader[Any] = DataLoader([(X, Y[:9])], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"targets \(9,\), output \(10, 3\), input 'x' \(10, 4\)"):
        look(nn.Linear(4, 3), loader)


def test_rows_of_a_later_batch_that_do_not_match() -> None:
    ready: Any = [(X[:4], Y[:4]), (X[4:], Y[5:])]
    with pytest.raises(ShapeError) as error:
        look(nn.Linear(4, 3), DataLoader(ready, batch_size=None))
    assert str(error.value) == (
        "inputs and targets of a batch have different numbers of rows; "
        "given: targets (5,), input 'x' (6, 4); accepted: one row per data point in all of them"
    )


@pytest.mark.usefixtures("no_type_checks")
def test_a_net_returns_one_tensor() -> None:
    with pytest.raises(UnsupportedError) as error:
        look(Pair())
    assert str(error.value) == (
        "the network does not return one tensor; given: tuple; "
        "accepted: a net whose forward returns its predictions, one row per data point"
    )


def test_targets_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="targets do not fit the network's output"):
        look(nn.Linear(4, 3), (X, Y[:, None]))


def test_targets_are_held_against_outputs() -> None:
    categorical, output = likelihoods.Categorical(), torch.randn(10, 3)
    check_targets(categorical, Y, output)
    check_targets(categorical, output.softmax(1), output)
    for y in (Y[:1], Y[:9], Y[0]):
        with pytest.raises(ShapeError, match="different numbers of rows; given: targets"):
            check_targets(categorical, y, output)
    with pytest.raises(ShapeError, match="targets do not fit the network's output"):
        check_targets(categorical, Y[:, None], output)
    with pytest.raises(InvalidDataError, match="class labels have the wrong type"):
        check_targets(categorical, Y.float(), output)


@pytest.mark.parametrize(
    ("x", "y", "sizes"),
    [
        (300.0 * torch.ones(10, 4), torch.ones(10, 1), "of x 300"),
        (torch.ones(10, 4), 2e5 * torch.ones(10, 1), "of the targets 2e+05"),
    ],
)
def test_numbers_in_units_of_their_own_are_noticed(x: Tensor, y: Tensor, sizes: str) -> None:
    bnn = ptv.lift(nn.Linear(4, 1), likelihood=likelihoods.Gaussian(), prior=priors.Normal())
    with pytest.warns(TrainingWarning, match=re.escape(f"the root mean square {sizes}, where")):
        check_data(bnn, as_batches((x, y), batch_size=4, shuffle=False), CPU)
