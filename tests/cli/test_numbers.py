"""Numbers as people read them."""

from __future__ import annotations

import pytest

from pyro_turbovbi.cli.numbers import decimals, readable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (18432.1, "18,400"),
        (0.13196, "0.132"),
        (2.5, "2.50"),
        (999.6, "1,000"),
        (-0.01234, "-0.0123"),
        (0.0, "0"),
        (3e-7, "3e-07"),
        (float("nan"), "nan"),
        (2e15, "2e+15"),
    ],
)
def test_three_digits_count(value: float, text: str) -> None:
    assert readable(value) == text


def test_decimals_are_those_of_the_smallest() -> None:
    assert decimals([120.0, 0.5, 0.0]) == 3
    assert decimals([1234.0]) == decimals([]) == 0
    assert decimals([1e-30]) == 8
