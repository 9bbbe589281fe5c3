"""The benchmark of relevant inputs: its problem, and one fit of it with default settings."""

from __future__ import annotations

import pytest
import torch

from benchmarks import relevant_inputs as benchmark
from pyro_turbovbi import engines, priors


def test_five_inputs_make_the_target() -> None:
    task = benchmark.problem(3)
    assert int(task.relevant.sum()) == 5
    torch.testing.assert_close(task.y.std(), torch.tensor(1.0))
    assert torch.equal(task.x, benchmark.problem(3).x)
    others = torch.linalg.lstsq(task.x[:, ~task.relevant], task.y).solution
    assert float(others.abs().max()) < 0.2


@pytest.mark.slow
def test_defaults_read_exactly_the_inputs_that_matter() -> None:
    task = benchmark.problem(1)
    read = benchmark.inputs_read(task, priors.ThreeLayer(), engines.Turbo(), seed=1)
    assert torch.equal(read, task.relevant)
