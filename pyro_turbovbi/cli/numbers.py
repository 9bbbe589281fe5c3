"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Iterable
from math import floor, isfinite, log10

_DIGITS = 3
_MOST_DECIMALS = 8


def readable(value: float) -> str:
    """A number with three digits that count, and thousands apart: 18,400, 2.57 or 0.0132."""
    rounded = float(f"{value:.{_DIGITS}g}")
    return f"{value:.{_DIGITS}g}" if _extreme(rounded) else f"{rounded:,.{decimals([rounded])}f}"


def decimals(values: Iterable[float]) -> int:
    """Decimals with which the smallest number that is not zero shows three digits that count."""
    sizes = [abs(value) for value in values if value and isfinite(value)]
    wanted = _DIGITS - 1 - floor(log10(min(sizes))) if sizes else 0
    return min(max(wanted, 0), _MOST_DECIMALS)


def _extreme(value: float) -> bool:
    return not isfinite(value) or (value != 0 and not 1e-4 <= abs(value) < 1e12)


__all__ = ["decimals", "readable"]
