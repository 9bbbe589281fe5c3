"""Methods by name."""

from __future__ import annotations

import pytest

from benchmarks.frontier_cases import methods


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("magnitude, 1.4 %", "magnitude"),
        ("magnitude + teachers, 1 %", "magnitude + teachers"),
        ("ours, chain, large", "ours, chain"),
        ("ours, gates + order", "ours, gates + order"),
        ("ours, gates + order, small, no teachers", "ours, gates + order, no teachers"),
        ("ours, gates + order, narrow", "ours, gates + order, narrow"),
        ("mean field, from active", "mean field, from active"),
        ("magnitude, 1 % (of seeds 0, 1 alone)", "magnitude"),
        ("BC-GNJ (of seeds 0, 1 alone)", "BC-GNJ"),
        ("sparse VD (cplxmodule)", "sparse VD (cplxmodule)"),
    ],
)
def test_sizes_of_a_method_are_one_family(method: str, family: str) -> None:
    assert methods.family(method) == family
