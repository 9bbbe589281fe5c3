"""Data: loaders, data sets and tensors through one interface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from pyro_turbovbi.batches import (
    Batch,
    TransformedTensors,
    as_batches,
    as_tensors,
    in_one_batch,
    num_rows,
    to_device,
)
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, ShapeError

X = torch.arange(20.0).view(10, 2)
Y = torch.arange(10)
ACCEPTED = (
    "accepted: a DataLoader, a Dataset, or a pair (x, y) of tensors; "
    "batches (x, y) or a dict with the key 'y'"
)
NAMED = ", several inputs by the names of the forward's arguments"


class Pairs(Dataset[tuple[Tensor, int]]):
    """Items as most data sets give them: a tensor and a Python number."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index], int(Y[index])


class Named(Dataset[dict[str, Any]]):
    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: X[index] for key in self.keys} | {"y": int(Y[index])}


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(X, Y, strict=True))


class SizedStream(Stream):
    def __len__(self) -> int:
        return 10


SOURCES = {
    "tensors": (X, Y),
    "list of tensors": [X, Y],
    "tensor data set": TensorDataset(X, Y),
    "data set": Pairs(),
    "named": Named("x"),
    "sized stream": SizedStream(),
    "loader": DataLoader(Pairs(), batch_size=4),
    "loader of dicts": DataLoader(Named("x"), batch_size=4),
}


@pytest.mark.parametrize("data", SOURCES.values(), ids=list(SOURCES))
def test_every_source_gives_the_same_batches_in_order(data: Any) -> None:
    batches = as_batches(data, batch_size=4, shuffle=False)
    seen = list(batches)
    assert batches.num_data == 10
    assert len(batches) == len(seen) == 3
    assert all(isinstance(batch, Batch) for batch in seen)
    assert [len(batch.y) for batch in seen] == [4, 4, 2]
    assert torch.equal(torch.cat([batch.x for batch in seen]), X)  # type: ignore[misc]
    assert torch.equal(torch.cat([batch.y for batch in seen]), Y)
    assert [len(batch.y) for batch in batches] == [4, 4, 2], "a second pass sees the same"


@pytest.mark.parametrize("data", SOURCES.values(), ids=list(SOURCES))
def test_as_tensors_gives_all_in_order(data: Any) -> None:
    x, y = as_tensors(data)
    assert torch.equal(x, X)  # type: ignore[arg-type]
    assert torch.equal(y, Y)


@pytest.mark.parametrize("data", [(X, Y), Pairs()], ids=["tensors", "data set"])
def test_shuffling_permutes_rows_together_anew_in_every_pass(data: Any) -> None:
    batches = as_batches(data, batch_size=3, shuffle=True)
    passes = []
    for _ in range(2):
        seen = list(batches)
        x, y = torch.cat([b.x for b in seen]), torch.cat([b.y for b in seen])  # type: ignore[misc]
        assert torch.equal(x, X[y])
        assert sorted(y.tolist()) == list(range(10))
        passes.append(y.tolist())
    assert passes[0] != passes[1]
    torch.manual_seed(7)
    first = [b.y.tolist() for b in batches]
    torch.manual_seed(7)
    assert [b.y.tolist() for b in batches] == first


def test_inputs_are_transformed_batch_by_batch_where_they_are_shuffled() -> None:
    seen: list[int] = []

    def transform(x: Tensor) -> Tensor:
        seen.append(len(x))
        return x + 100.0

    data = TransformedTensors(X, Y, transform)
    batches = list(as_batches(data, batch_size=4, shuffle=True))
    assert seen == [4, 4, 2]
    rows = torch.cat([batch.y for batch in batches])
    assert torch.equal(torch.cat([batch.x for batch in batches]), X[rows] + 100.0)  # type: ignore[arg-type]
    assert torch.equal(as_tensors(data)[0], X)  # type: ignore[arg-type]
    assert torch.equal(next(iter(as_batches(data, batch_size=4, shuffle=False))).x, X[:4])  # type: ignore[arg-type]
    assert seen == [4, 4, 2], "in order: as they are"


def test_a_loader_keeps_its_own_batches() -> None:
    loader = DataLoader(Pairs(), batch_size=3, drop_last=True)
    batches = as_batches(loader, batch_size=128, shuffle=True)
    assert batches.num_data == 10
    assert len(batches) == 3
    assert [b.y.tolist() for b in batches] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_subset_counts_its_own_points() -> None:
    indices = [1, 3, 5]
    subset = SubsetRandomSampler(indices)
    sampled = DataLoader(Pairs(), batch_size=2, sampler=subset)
    in_batches = DataLoader(Pairs(), batch_sampler=BatchSampler(subset, 2, drop_last=False))
    for data in (sampled, in_batches, Subset(Pairs(), indices)):
        batches = as_batches(data, batch_size=2, shuffle=True)
        assert batches.num_data == 3
        assert sorted(y for b in batches for y in b.y.tolist()) == indices


class Endless(Sampler[int]):
    """A sampler that does not know how much it yields."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


def test_a_loader_of_ready_batches_does_not_say_how_many_points_there_are() -> None:
    ready: Any = [(X[:6], Y[:6]), (X[6:], Y[6:])]
    batches = as_batches(DataLoader(ready, batch_size=None), batch_size=1, shuffle=False)
    assert batches.num_data is None
    assert [len(batch.y) for batch in batches] == [6, 4]


def test_batches_without_points_are_passed_over() -> None:
    def even(rows: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        kept = [(x, y) for x, y in rows if y % 4 in (2, 3)]
        labels = torch.tensor([y for _, y in kept])
        return torch.stack([x for x, _ in kept]) if kept else X[:0], labels

    loader: DataLoader[Any] = DataLoader(Pairs(), batch_size=2, collate_fn=even)
    batches = list(as_batches(loader, batch_size=1, shuffle=False))
    assert [batch.y.tolist() for batch in batches] == [[2, 3], [6, 7]]
    none: DataLoader[Any] = DataLoader(Pairs(), collate_fn=lambda _: (X[:0], Y[:0]))
    with pytest.raises(InvalidDataError, match="the loader yields no batch"):
        as_tensors(none)


def test_all_in_one_batch() -> None:
    for data in ((X, Y), Pairs(), DataLoader(Pairs(), batch_size=3)):
        (batch,) = batches = in_one_batch(data)
        assert batches.num_data == 10
        assert len(batches) == 1
        assert torch.equal(batch.x, X)  # type: ignore[arg-type]
        assert torch.equal(batch.y, Y)
    (batch,) = batches = in_one_batch(Named("a", "b"))
    assert batches.num_data == 10
    assert len(batches) == 1
    assert isinstance(batch.x, dict)
    assert torch.equal(batch.x["b"], X)
    with pytest.raises(InvalidDataError, match=EMPTY):
        in_one_batch((X[:0], Y[:0]))


def test_named_inputs_stay_named() -> None:
    batch = next(iter(as_batches(Named("a", "b"), batch_size=4, shuffle=False)))
    assert isinstance(batch.x, dict)
    assert list(batch.x) == ["a", "b"]
    assert torch.equal(batch.x["a"], X[:4])
    x, y = as_tensors(Named("a", "b"))
    assert isinstance(x, dict)
    assert torch.equal(x["b"], X)
    assert torch.equal(y, Y)
    assert num_rows(x) == 10
    assert num_rows(X) == 10


def test_to_device_keeps_kind_and_values() -> None:
    meta = torch.device("meta")
    moved = to_device({"a": X}, meta)
    assert isinstance(moved, dict)
    assert moved["a"].device == meta
    assert moved["a"].shape == X.shape
    assert torch.equal(to_device(X, torch.device("cpu")), X)  # type: ignore[arg-type]


EMPTY = "the data set is empty; accepted: at least one data point"
NO_BATCH = "the loader yields no batch; accepted: at least one batch"
NO_LENGTH = (
    "the data set does not know its length, which scales the likelihood; "
    "given: Stream; accepted: a Dataset with __len__"
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X[:0], Y[:0]), EMPTY),
        ((torch.tensor(1.0), Y), EMPTY),
        (TensorDataset(X[:0], Y[:0]), EMPTY),
        (Subset(Pairs(), []), EMPTY),
        (DataLoader(TensorDataset(X[:0], Y[:0])), NO_BATCH),
        (DataLoader(Pairs(), batch_size=11, drop_last=True), NO_BATCH),
        (Stream(), NO_LENGTH),
        (DataLoader(Stream()), NO_LENGTH),
        (
            DataLoader(Pairs(), sampler=Endless()),
            "the loader does not know how many batches it yields, which schedules need; "
            "given: object of type 'Endless' has no len(); "
            "accepted: a sampler, or a data set where there is none, with __len__",
        ),
        ({"x": X, "y": Y}, f"data is of an unknown kind; given: dict; {ACCEPTED}"),
        (
            (X, Y, Y),
            f"data is of an unknown kind; given: tuple of Tensor, Tensor, Tensor; {ACCEPTED}",
        ),
        ([X] * 5, f"data is of an unknown kind; given: list; {ACCEPTED}"),
        ((), f"data is of an unknown kind; given: tuple; {ACCEPTED}"),
        (
            (X.numpy(), Y.numpy()),
            f"data is of an unknown kind; given: tuple of ndarray, ndarray; {ACCEPTED} "
            "(did you mean torch.from_numpy(x), torch.from_numpy(y)?)",
        ),
        (None, f"data is of an unknown kind; given: NoneType; {ACCEPTED}"),
    ],
)
def test_data_that_cannot_be_used(data: Any, message: str) -> None:
    with pytest.raises(InvalidDataError) as error:
        as_batches(data, batch_size=4, shuffle=False)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TensorDataset(X, X, Y), f"a batch is of an unknown kind; given: list; {ACCEPTED}"),
        (TensorDataset(X), f"a batch is of an unknown kind; given: list; {ACCEPTED}"),
        (
            DataLoader([((x, x), y) for x, y in zip(X, Y, strict=True)], batch_size=2),  # type: ignore[arg-type]
            f"'x' of a batch is no tensor; given: list of Tensor, Tensor; {ACCEPTED}{NAMED}",
        ),
        (
            DataLoader([{"a": x, "id": "?", "y": 1} for x in X]),  # type: ignore[arg-type]
            f"'id' of a batch is no tensor; given: list of str; {ACCEPTED}{NAMED}",
        ),
        (Named(), f"a dict batch lacks targets or inputs; given: ['y']; {ACCEPTED}"),
    ],
)
def test_batches_that_cannot_be_used(data: Any, message: str) -> None:
    with pytest.raises(InvalidDataError) as error:
        list(as_batches(data, batch_size=4, shuffle=False))
    assert str(error.value) == message


@pytest.mark.parametrize("y", [Y[:9], torch.tensor(1)])
def test_inputs_and_targets_have_one_length(y: Tensor) -> None:
    with pytest.raises(ShapeError) as error:
        as_batches((X, y), batch_size=4, shuffle=False)
    assert str(error.value) == (
        f"inputs and targets have different lengths; given: (10, 2) and {tuple(y.shape)}; "
        "accepted: the same first dimension"
    )


def test_batch_size_is_positive() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        as_batches((X, Y), batch_size=0, shuffle=False)
    assert str(error.value) == "batch_size is out of range; given: 0; accepted: 1, 2, ..."


class Doubled(TensorDataset):
    """Does something of its own when a point is asked for."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, y = super().__getitem__(index)
        return 2.0 * x, y


def test_data_sets_derived_from_tensors_are_asked_for_their_points() -> None:
    x, y = as_tensors(Doubled(X, Y))
    assert torch.equal(x, 2.0 * X)  # type: ignore[arg-type]
    assert torch.equal(y, Y)
