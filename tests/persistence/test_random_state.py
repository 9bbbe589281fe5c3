"""Random numbers are drawn again after a return; data that is not repeated is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pyro_turbovbi.batches import Batches, TransformedTensors, as_batches
from pyro_turbovbi.persistence.random_state import RandomSources
from tests.devices import DEVICES

X, Y = torch.arange(40.0).view(20, 2), torch.arange(20)
ITEMS = TensorDataset(X, Y)


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Items with noise from somewhere."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(2) if self.source == "torch" else torch.from_numpy(np.random.rand(2))
        return X[index] + noise, Y[index]


class Shuffled(Sampler[int]):
    """An order of one's own."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        if self.source == "torch":
            return iter(torch.randperm(20).tolist())
        return iter(np.random.permutation(20).tolist())


def own(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loader(items: Any = ITEMS, **options: Any) -> Any:
    return DataLoader(items, batch_size=6, **options)


REPEATED = {
    "tensors": (X, Y),
    "transformed tensors": TransformedTensors(X, Y, lambda x: x + torch.rand_like(x)),
    "data set": Noisy("torch"),
    "loader in order": loader(),
    "shuffled loader": loader(shuffle=True),
    "loader with a generator": loader(shuffle=True, generator=own()),
    "random sampler": loader(sampler=RandomSampler(ITEMS, generator=own())),
    "with replacement": loader(sampler=RandomSampler(ITEMS, replacement=True, generator=own())),
    "subset": loader(sampler=SubsetRandomSampler(range(9), generator=own())),
    "weights": loader(sampler=WeightedRandomSampler([1.0] * 20, 20, generator=own())),
    "sampler of one's own": loader(sampler=Shuffled("torch")),
    "noisy items": loader(Noisy("torch"), shuffle=True),
}
NOT_REPEATED = {
    "sampler from NumPy": loader(sampler=Shuffled("numpy")),
    "items from NumPy": loader(Noisy("numpy")),
}


def passes(batches: Batches, count: int = 2) -> list[Tensor]:
    return [torch.cat([batch.y for batch in batches]) for _ in range(count)] + [
        torch.cat([batch.x for batch in batches])  # type: ignore[misc]
    ]


@pytest.mark.parametrize("name", REPEATED)
def test_data_comes_again_in_the_same_way(name: str) -> None:
    batches = as_batches(REPEATED[name], batch_size=6, shuffle=True)
    sources = RandomSources(torch.device("cpu"), batches.generators)
    before = sources.state()
    assert sources.repeats(batches)
    first = passes(batches)
    sources.restore(before)
    assert all(map(torch.equal, first, passes(batches)))


@pytest.mark.parametrize("name", NOT_REPEATED)
def test_data_that_is_not_repeated_is_noticed(name: str) -> None:
    batches = as_batches(NOT_REPEATED[name], batch_size=6, shuffle=True)
    assert not RandomSources(torch.device("cpu"), batches.generators).repeats(batches)


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_data_from_worker_processes(persistent: bool) -> None:
    """Workers that live on draw on: their noise is not repeated, and that is noticed."""
    data = loader(Noisy("torch"), shuffle=True, num_workers=2, persistent_workers=persistent)
    batches = as_batches(data, batch_size=6, shuffle=True)
    sources = RandomSources(torch.device("cpu"), batches.generators)
    assert sources.repeats(batches) == (not persistent)


@pytest.mark.parametrize("device", DEVICES)
def test_all_generators_go_back(device: str) -> None:
    place, generator = torch.device(device), own()
    sources = RandomSources(place, [generator])

    def drawn() -> list[Tensor]:
        return [
            torch.rand(3), torch.rand(3, device=place), torch.rand(3, generator=generator)
        ]  # fmt: skip

    before = sources.state()
    first = drawn()
    sources.restore(before)
    assert all(map(torch.equal, first, drawn()))


def test_looking_whether_data_repeats_changes_nothing() -> None:
    generator = own()
    batches = as_batches(loader(shuffle=True, generator=generator), batch_size=6, shuffle=True)
    sources = RandomSources(torch.device("cpu"), batches.generators)
    before = torch.get_rng_state(), generator.get_state()
    sources.repeats(batches)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(generator.get_state(), before[1])
