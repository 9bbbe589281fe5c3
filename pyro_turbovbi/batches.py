"""Training and test data: `DataLoader`, `Dataset` or pair of tensors, through one interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)

from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, ShapeError

#: What a net takes: one tensor, or named tensors for a forward with several arguments.
Inputs: TypeAlias = Tensor | dict[str, Tensor]
#: A `DataLoader`, a `Dataset`, or a pair of tensors.
Data: TypeAlias = Any

_ACCEPTED = (
    "a DataLoader, a Dataset, or a pair (x, y) of tensors; "
    "batches (x, y) or a dict with the key 'y'"
)


#: More members than that are not named one by one.
_MEMBERS_NAMED = 4


class Batch(tuple[Inputs, Tensor]):
    """Inputs and targets of one step."""

    __slots__ = ()

    @property
    def x(self) -> Inputs:
        """Inputs."""
        return self[0]

    @property
    def y(self) -> Tensor:
        """Targets, batch first."""
        return self[1]


@runtime_checkable
class Batches(Protocol):
    """An iterable over batches that knows how many data points it stands for.

    Attributes:
        num_data: Data points of the whole data set; None: as many as one pass shows.
        generators: What order and content are drawn from, besides torch's own generators.
    """

    num_data: int | None
    generators: Sequence[torch.Generator]

    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...


class TransformedTensors(TensorDataset):
    """Tensors whose inputs are changed at random whenever they are trained on.

    Every training batch is cut from the tensors and then transformed as a whole, on the device on
    which the tensors lie: with all of them on a GPU, no step waits for the CPU. Where data is read
    in order (by `evaluate`, `compress`, or an engine that takes all at once), inputs come as they
    are.

    Args:
        x: Inputs, [points, ...].
        y: Targets, [points, ...].
        transform: Takes inputs of a batch and returns new ones of the same shape, for example
            `data.augment`.
    """

    def __init__(self, x: Tensor, y: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__(x, y)
        self.transform = transform


def as_batches(data: Data, *, batch_size: int, shuffle: bool) -> Batches:
    """See `data` through the interface of `Batches`.

    Args:
        data: A `DataLoader` (used as it is: its own batch size and order), a `Dataset`, or a pair
            of tensors.
        batch_size: Data points a batch, for the latter two.
        shuffle: A new order in every pass, drawn from torch's generator, for the latter two.

    Raises:
        InvalidArgumentError: if `batch_size` is no whole number of at least 1.
        InvalidDataError: if the data is empty or of another kind.
        ShapeError: if x and y have different lengths.
    """
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise InvalidArgumentError(
            "batch_size is out of range", given=repr(batch_size), accepted="1, 2, ..."
        )
    if isinstance(data, DataLoader):
        return _LoaderBatches(data)
    transform = data.transform if isinstance(data, TransformedTensors) and shuffle else None
    # A subclass of the user's may do something when a point is asked for.
    if type(data) in (TensorDataset, TransformedTensors) and len(data.tensors) == 2:
        data = data.tensors
    if isinstance(data, Dataset):
        if _length(data) == 0:
            raise InvalidDataError("the data set is empty", accepted="at least one data point")
        shuffle = shuffle and not isinstance(data, IterableDataset)  # that has an order of its own
        return _LoaderBatches(DataLoader(data, batch_size=batch_size, shuffle=shuffle))
    if (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(isinstance(t, Tensor) for t in data)
    ):
        return _TensorBatches(data[0], data[1], batch_size, shuffle, transform)
    raise InvalidDataError(
        "data is of an unknown kind", given=kind_of(data), accepted=_ACCEPTED + _meant(data)
    )


def as_tensors(data: Data) -> tuple[Inputs, Tensor]:
    """All inputs and targets, in order, each as one tensor (named inputs: a dict of tensors)."""
    if (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(isinstance(t, Tensor) for t in data)
    ):
        return data[0], data[1]
    parts = list(as_batches(data, batch_size=1024, shuffle=False))
    if not parts:
        raise InvalidDataError("the loader yields no batch", accepted="at least one batch")
    y = torch.cat([part.y for part in parts])
    inputs: list[Any] = [part.x for part in parts]
    if isinstance(inputs[0], Tensor):
        return torch.cat(inputs), y
    return {key: torch.cat([x[key] for x in inputs]) for key in inputs[0]}, y


def in_one_batch(data: Data) -> Batches:
    """See all of `data` as a single batch, in order; arguments and errors: see `as_batches`."""
    x, y = as_tensors(data)
    if isinstance(x, Tensor):
        return _TensorBatches(x, y, batch_size=max(1, len(x) if x.dim() else 0), shuffle=False)
    return _OneBatch(Batch((x, y)))


def kind_of(value: object) -> str:
    """The type of a value, and of a short list's or tuple's members, in words."""
    name = type(value).__name__
    if isinstance(value, tuple | list) and 0 < len(value) <= _MEMBERS_NAMED:
        return f"{name} of {', '.join(type(member).__name__ for member in value)}"
    return name


def has_splits(value: object) -> bool:
    """Whether a value is what a loader of `pyro_turbovbi.data` gives, or looks like it."""
    return all(hasattr(value, part) for part in ("train", "validation", "test"))


def num_rows(x: Inputs) -> int:
    """Number of data points of one batch of inputs."""
    return len(x if isinstance(x, Tensor) else next(iter(x.values())))


def to_device(x: Inputs, device: torch.device) -> Inputs:
    """Inputs on another device."""
    if isinstance(x, Tensor):
        return x.to(device, non_blocking=True)
    return {key: value.to(device, non_blocking=True) for key, value in x.items()}


def _meant(data: object) -> str:
    """What was probably meant by data of an unknown kind: the end of a message, or nothing."""
    if has_splits(data):
        return " (did you mean splits.train, or splits.test for an evaluation?)"
    pair = isinstance(data, tuple | list) and len(data) == 2
    if pair and any(isinstance(member, np.ndarray) for member in data):  # type: ignore[attr-defined]
        return " (did you mean torch.from_numpy(x), torch.from_numpy(y)?)"
    return ""


def _as_batch(batch: Any) -> Batch:
    if isinstance(batch, Mapping):
        if "y" not in batch or len(batch) < 2:
            raise InvalidDataError(
                "a dict batch lacks targets or inputs", given=list(batch), accepted=_ACCEPTED
            )
        inputs = {key: _tensor(value, key) for key, value in batch.items() if key != "y"}
        x = inputs["x"] if set(inputs) == {"x"} else inputs
        return Batch((x, _tensor(batch["y"], "y")))
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return Batch((_tensor(batch[0], "x"), _tensor(batch[1], "y")))
    raise InvalidDataError(
        "a batch is of an unknown kind", given=type(batch).__name__, accepted=_ACCEPTED
    )


def _tensor(value: Any, name: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidDataError(
            f"{name!r} of a batch is no tensor",
            given=kind_of(value),
            accepted=f"{_ACCEPTED}, several inputs by the names of the forward's arguments",
        ) from error


@dataclass
class _TensorBatches:
    """Batches cut from tensors by index: no worker, no collate, no copy of the whole data."""

    inputs: Tensor
    targets: Tensor
    batch_size: int
    shuffle: bool
    transform: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        self.generators: Sequence[torch.Generator] = ()
        self._rows = len(self.inputs) if self.inputs.dim() else 0
        self.num_data: int | None = self._rows
        if self._rows == 0:
            raise InvalidDataError("the data set is empty", accepted="at least one data point")
        if self.targets.dim() == 0 or len(self.targets) != self._rows:
            raise ShapeError(
                "inputs and targets have different lengths",
                given=f"{tuple(self.inputs.shape)} and {tuple(self.targets.shape)}",
                accepted="the same first dimension",
            )

    def __len__(self) -> int:
        return -(-self._rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = None
        if self.shuffle:  # drawn on the CPU: the same order on every device
            order = torch.randperm(self._rows).to(self.inputs.device)
        for start in range(0, self._rows, self.batch_size):
            chosen = slice(start, start + self.batch_size)
            rows: Any = chosen if order is None else order[chosen]
            x = self.inputs[rows]
            yield Batch((x if self.transform is None else self.transform(x), self.targets[rows]))


@dataclass
class _OneBatch:
    """All data in one batch that is there already."""

    batch: Batch

    def __post_init__(self) -> None:
        self.generators: Sequence[torch.Generator] = ()
        self.num_data: int | None = len(self.batch.y)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        yield self.batch


def _length(data: Any) -> int:
    try:
        return len(data)
    except TypeError as error:
        raise InvalidDataError(
            "the data set does not know its length, which scales the likelihood",
            given=type(data).__name__,
            accepted="a Dataset with __len__",
        ) from error


def _num_batches(loader: DataLoader[Any]) -> int:
    try:
        return len(loader)
    except TypeError as error:
        raise InvalidDataError(
            "the loader does not know how many batches it yields, which schedules need",
            given=f"{error}",
            accepted="a sampler, or a data set where there is none, with __len__",
        ) from error


def _num_points(loader: DataLoader[Any]) -> int | None:
    """Data points that a loader stands for; None where its items are batches already."""
    if loader.batch_sampler is None:
        return None
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    # A subset sampler never shows the rest of the data set, which so is no data.
    return _length(sampler if isinstance(sampler, SubsetRandomSampler) else loader.dataset)


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    """The generators that a loader and its samplers were given, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    places = (loader, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = (getattr(place, "generator", None) for place in places)
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


class _LoaderBatches:
    """Batches of a `DataLoader`, which keeps its own batch size, order and workers."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.num_data: int | None = _num_points(loader)
        self._length = _num_batches(loader)
        if self._length == 0:
            raise InvalidDataError("the loader yields no batch", accepted="at least one batch")
        self._loader = loader
        self.generators: Sequence[torch.Generator] = _generators(loader)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        for item in self._loader:
            batch = _as_batch(item)
            if batch.y.dim() == 0 or len(batch.y):  # what filters its points may leave none
                yield batch


__all__ = [
    "Batch",
    "Batches",
    "Data",
    "Inputs",
    "TransformedTensors",
    "as_batches",
    "as_tensors",
    "has_splits",
    "in_one_batch",
    "kind_of",
    "num_rows",
    "to_device",
]
