"""A world whose processes are threads of this one, for what draws no random numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_turbovbi.distributed import World, portable
from pyro_turbovbi.errors import TurboVBIError
from pyro_turbovbi.persistence.trees import Tree, join, split

T = TypeVar("T")


@dataclass(frozen=True)
class Threads(World):
    """One of several threads; they exchange what they have through a list."""

    slots: Any = None
    barrier: Any = None

    def add(self, *tensors: Tensor) -> None:
        """See `World.add`."""
        for mine, *others in zip(tensors, *self._all(list(tensors)), strict=True):
            mine.copy_(torch.stack([other.detach().clone() for other in others]).sum(0))
            self.barrier.wait()

    def raise_first(self, error: TurboVBIError | None) -> None:
        """See `World.raise_first`."""
        for met in self._all(None if error is None else portable(error)):
            if met is not None:
                raise met

    def told(self, tree: Tree, source: int) -> Tree:
        """See `World.told`."""
        return join(*split(self._all(tree)[source]))

    def _all(self, mine: Any) -> list[Any]:
        copied = [t.detach().clone() for t in mine] if isinstance(mine, list) else mine
        self.slots[self.rank] = copied
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()
        return found


def in_threads(size: int, task: Callable[[World], T]) -> list[T]:
    """What a task gives in each of several worlds that know each other."""
    slots, barrier = [None] * size, threading.Barrier(size, timeout=60)
    worlds = [Threads(rank, size, slots, barrier) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(task, worlds))
