"""Pruning by magnitude: which weights, how many, and when."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.frontier_cases.magnitude import Dense, Magnitude, largest
from benchmarks.frontier_cases.training import Task, weights_of
from tests.benchmarks.frontier_cases import tiny


def task(epochs: int = 3) -> Task:
    return Task(tiny.build(), tiny.points(120, 0), epochs, 40, 0, torch.device("cpu"))


def test_the_largest_weights_of_all_layers_stay() -> None:
    weights = {
        "a": nn.Parameter(torch.tensor([3.0, -0.1])),
        "b": nn.Parameter(torch.tensor([-2.0])),
    }
    masks = largest(weights, 2 / 3)
    assert masks["a"].tolist() == [True, False]
    assert masks["b"].tolist() == [True]


@pytest.mark.parametrize(("density", "until"), [(0.5, 0.05), (0.1, 0.6)])
def test_as_many_weights_stay_as_asked(density: float, until: float) -> None:
    trained = Magnitude(density, lr=0.01, until=until).train(task())
    kept = sum(int(mask.sum()) for mask in trained.masks.values())
    assert kept == round(density * 146)
    for name, weight in weights_of(trained.net).items():
        assert torch.equal(weight != 0, trained.masks[name])


def test_the_density_falls_to_its_end() -> None:
    method = Magnitude(0.1)
    densities = [method.density_at(progress) for progress in (0.0, 0.5, 1.0, 1.5)]
    assert densities == pytest.approx([1.0, 0.2125, 0.1, 0.1])


def test_the_prior_shrinks_weights() -> None:
    sizes = [
        sum(float(w.square().sum()) for w in weights_of(trained.net).values())
        for trained in (
            Magnitude(1.0, lr=0.05, scale=scale).train(task(20)) for scale in (None, 0.05)
        )
    ]
    assert sizes[1] < 0.5 * sizes[0]


def test_dense_training_keeps_all_and_learns() -> None:
    work = task(40)
    trained = Dense(lr=0.03).train(work)
    assert all(mask.all() for mask in trained.masks.values())
    wrong = trained.net(work.train.x).argmax(1) != work.train.y
    assert wrong.double().mean() < 0.2
