"""Fixtures of all tests."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import hypothesis
import jaxtyping
import numpy as np
import pyro
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
# Machines differ in speed: a test must not fail because one example took long.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


#: Seconds after which no further slow test is begun: continuous integration has a limit.
SLOW_SECONDS = float(os.environ.get("PYRO_TURBOVBI_SLOW_SECONDS", "inf"))
STARTED = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what would begin too late."""
    late = time.monotonic() - STARTED > SLOW_SECONDS
    if late and item.get_closest_marker("slow") is not None:
        pytest.skip(f"the {SLOW_SECONDS:g} seconds for slow tests are used up")


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seeds torch, numpy and Python for every test."""
    pyro.set_rng_seed(0)
    np.random.seed(0)
    return 0


@pytest.fixture(autouse=True)
def param_store() -> Iterator[None]:
    """The package must leave nothing in Pyro's global parameter store.

    A test that runs stock Pyro itself clears the store when it is done.
    """
    yield
    left = list(pyro.get_param_store().keys())
    pyro.clear_param_store()
    assert not left, f"left in Pyro's global parameter store: {left}"


@pytest.fixture
def no_type_checks() -> Iterator[None]:
    """Lets arguments of a wrong type through to the package's own errors, as users meet them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
