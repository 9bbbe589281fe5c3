"""What several benchmarks share: plain training, errors, stored runs, summaries over seeds."""

from __future__ import annotations

import fcntl
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Split = tuple[Tensor, Tensor]

#: Rows that go through a network at once where it is only evaluated.
CHUNK = 1000


def plain_epochs(net: nn.Module, train: Split, epochs: int, batch: int) -> None:
    """Plain training with Adam at its usual rate."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    for _ in range(epochs):
        for rows in torch.randperm(len(train[0])).split(batch):
            plain_step(net, optimizer, train[0][rows], train[1][rows])


def plain_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """One step of plain training."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()


@torch.no_grad()
def error_percent(net: nn.Module, split: Split) -> float:
    """Share of wrong classifications."""
    outputs = torch.cat([net(x) for x in split[0].split(CHUNK)])
    wrong = outputs.argmax(-1) != split[1]
    return 100.0 * float(wrong.double().mean())


def cached(path: Path, recipe: dict[str, Any], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The stored run if it was made with the same recipe, otherwise a new one, stored."""
    found = stored(path, recipe)
    if found is None:
        found = {"recipe": recipe, **run()}
        write_json(path, found)
    return found


def stored(path: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """The stored run; None if there is none that was made with this recipe."""
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found if found["recipe"] == recipe else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes an object, all or nothing, and the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time: others wait until the file is made, or until its maker is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def file_name(method: str) -> str:
    """A method's name as part of a file name."""
    return method.replace(",", "").replace(" ", "_")


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and range over seeds."""
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }
