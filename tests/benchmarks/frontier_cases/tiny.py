"""A case of a few weights and a hundred points, in the place of MNIST."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.frontier_cases import cases, methods, runs
from benchmarks.frontier_cases.cases import Case
from pyro_turbovbi.data import Splits, TensorPair
from pyro_turbovbi.data.splits import hold_out

NAME = "tiny"


def points(count: int, seed: int) -> TensorPair:
    """Three classes that two of ten inputs tell apart."""
    x = torch.rand(count, 10, generator=torch.Generator().manual_seed(seed))
    return TensorPair(x, (2.0 * x[:, 0] + x[:, 1]).floor().long().clamp(max=2))


def load(validation: int) -> Splits:
    train, held_out = hold_out(points(120, 0), validation, 0)
    return Splits(train, held_out, points(60, 1))


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make it a case, of two epochs; runs and networks go to a folder of the test's own."""
    case = Case(
        "tiny",
        build,
        load,
        densities=(0.5, 0.2),
        shares=(0.5,),
        compared_at=40.0,
        target=50.0,
        pretraining=1,
        epochs=2,
    )
    monkeypatch.setitem(cases.CASES, NAME, case)
    monkeypatch.setitem(methods.CHOSEN, NAME, {})
    monkeypatch.setattr(cases, "VALIDATION", 40)
    monkeypatch.setattr(cases, "CACHE", folder / "cache")
    monkeypatch.setattr(runs, "RESULTS", folder / "results" / "frontier")
    cases.parts.cache_clear()
