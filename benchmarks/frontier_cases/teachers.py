"""Teachers: plain networks of a case's own shape, trained with dropout, whose belief is taught.

They see the same training data as everything else and no other. Trained once for a data set and
kept; their seconds are part of what a method that uses them costs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import pyro_turbovbi as ptv
from benchmarks.common import locked
from benchmarks.frontier_cases import cases
from benchmarks.frontier_cases.training import Method, Task, Trained, cross_entropy, optimise
from pyro_turbovbi.data import TensorPair

EPOCHS, LR = 25, 2e-3
#: Dropout in front of the first and the last linear layer, and in front of those between.
OUTER, INNER = 0.2, 0.4


def with_dropout(net: nn.Sequential) -> nn.Sequential:
    """The same layers with new start weights, and dropout in front of the linear ones."""
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    layers: list[nn.Module] = []
    for number, layer in enumerate(net):
        if isinstance(layer, nn.Linear):
            outer = number == 0 or layer is linear[-1]
            layers.append(nn.Dropout(OUTER if outer else INNER))
        layers.append(layer)
    new = nn.Sequential(*layers)
    for layer in new:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.reset_parameters()
    return new


def taught(task: Task, count: int) -> tuple[TensorPair, float]:
    """The task's training data with the belief of so many teachers, and the seconds they took.

    With none, the data as they are.
    """
    if not count:
        return task.train, 0.0
    size = sum(p.numel() for p in task.net.parameters())
    name = f"{size}_parameters-{len(task.train.x)}_points-{count}x{EPOCHS}.safetensors"
    path = cases.CACHE / "teachers" / name
    with locked(path):
        if not path.exists():
            started = time.perf_counter()
            soft = ptv.soft_targets(list(_teachers(task, count)), task.train)[1]
            part = path.with_suffix(".part")
            save_file({"soft": soft.cpu()}, part, {"seconds": str(time.perf_counter() - started)})
            part.replace(path)
    with safe_open(path, "pt") as file:
        soft, seconds = file.get_tensor("soft"), float(file.metadata()["seconds"])
    return TensorPair(task.train.x, soft.to(task.device)), seconds


@dataclass(frozen=True)
class Taught:
    """Another method on the data that our method gets from its teachers.

    Attributes:
        method: The method.
        teachers: Number of dense networks whose belief is taught in the place of labels.
    """

    method: Method
    teachers: int

    def train(self, task: Task) -> Trained:
        """See `Method.train`."""
        data, seconds = taught(task, self.teachers)
        torch.manual_seed(task.seed)
        trained = self.method.train(replace(task, train=data))
        return replace(trained, notes=trained.notes | {"teacher_seconds": seconds})

    def described(self) -> dict[str, Any]:
        """See `Method.described`."""
        return self.method.described() | {"teachers": [self.teachers, EPOCHS, LR]}


def _teachers(task: Task, count: int) -> Iterator[nn.Module]:
    """Trained one after the other, always from the same seeds."""
    for number in range(count):
        torch.manual_seed(100 + number)
        net = with_dropout(_copied(task)).to(task.device).train()
        lesson = Task(net, task.train, EPOCHS, task.batch, 100 + number, task.device)
        optimise(lesson, net.parameters(), cross_entropy(net), lr=LR)
        yield net.eval()


def _copied(task: Task) -> nn.Sequential:
    net = copy.deepcopy(task.net)
    assert isinstance(net, nn.Sequential), "teachers are made of a chain of layers"
    return net
