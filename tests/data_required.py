"""What a test says that needs a data set which is not part of the repository."""

from __future__ import annotations

import os

import pytest

from pyro_turbovbi.data.location import data_roots


def needs_data(name: str) -> None:
    """Skips the calling test where the data set is absent; in CI (`CI=true`) fails it instead."""
    roots = data_roots()
    if any((root / name).is_dir() for root in roots):
        return
    reason = f"the data set {name} is absent (looked in {', '.join(map(str, roots))})"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(f"{reason}; CI must have it")
    pytest.skip(reason)
