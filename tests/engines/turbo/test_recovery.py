"""Recovery of a clustered support: the problem that only the structured prior solves."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pyro_turbovbi import supports

ROOT = Path(__file__).resolve().parents[3]


def gallery(name: str) -> ModuleType:
    """A model of the gallery."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "models" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recover() -> Callable[..., float]:
    """The gallery model's own function."""
    return gallery("structured_recovery").recover  # type: ignore[no-any-return]


def test_enough_measurements_recover_the_support(recover: Callable[..., float]) -> None:
    assert recover(None, 250, 0) >= 0.98


@pytest.mark.slow
def test_chain_recovers_where_the_independent_prior_does_not(
    recover: Callable[..., float],
) -> None:
    """Ten seeds at 150 and 250 measurements of 1,000 weights, 50 of them non-zero."""
    independent = supports.Independent(0.05)
    medians = {
        (name, count): statistics.median(recover(support, count, seed) for seed in range(10))
        for name, support in (("chain", None), ("independent", independent))
        for count in (150, 250)
    }
    assert medians["chain", 150] >= 0.99
    assert medians["independent", 150] < 0.7
    assert medians["chain", 250] >= 0.99
    assert medians["independent", 250] >= 0.99


def test_gates_find_the_relevant_inputs_where_independent_weights_do_not() -> None:
    model = gallery("gated_recovery")
    found = [model.recover(model.GATED, 40, seed)[1] for seed in range(3)]
    blind = [model.recover(supports.Independent(0.05), 40, seed)[1] for seed in range(3)]
    assert min(found) >= 0.95
    assert max(blind) < 0.7
