"""What was found, in sentences for readers who do not know the method."""

from __future__ import annotations

import math

from pyro_turbovbi.report.findings import Certainty, Coverage, Findings
from pyro_turbovbi.report.network import SmallNetwork

_CHANCE = 0.05
"""Differences that come about by chance in more than this share of cases are called chance."""
_BAND = 1.96


def percent(share: float) -> str:
    """A share in percent, to two digits where it is small."""
    value = 100 * share
    return f"{value:.0f} %" if value in (0.0, 100.0) else f"{value:.{1 if value >= 1 else 2}f} %"


def size(count: int | float) -> str:
    """Bytes in a unit that suits them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("the last unit returns")


def milliseconds(seconds: float) -> str:
    """A time in milliseconds."""
    return f"{1000 * seconds:.3g} ms"


def times(ratio: float) -> str:
    """How many times smaller, to two or three digits."""
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"


def weights_left(kept: int, total: int) -> str:
    """How much of the network is needed."""
    if kept == total:
        return f"All {total:,} weights of the network are left: nothing was switched off."
    if kept == 0:
        return (
            f"None of the {total:,} weights is left: the network answers the same to every input. "
            "It was trained too shortly, or its prior asks for too few weights."
        )
    return (
        f"Of the network's {total:,} weights, {kept:,} are left: {percent(kept / total)}, "
        f"or 1 in {times(total / kept)}."
    )


def cost(small: SmallNetwork | None) -> str:
    """How much smaller and faster the cut network is."""
    if small is None:
        return (
            "There is no small network yet, so nothing can be said of its size and speed: "
            "`ptv compress` (in Python, `Fit.compress`) makes one."
        )
    before, after = small.before, small.after
    ratio = before.bytes / after.bytes
    change = f"{times(ratio)} times smaller" if ratio >= 1 else f"{times(1 / ratio)} times larger"
    text = (
        f"Cut down to what is left, the network is a file of {size(after.bytes)}, {change} than "
        f"the {size(before.bytes)} of the original."
    )
    if before.latency and after.latency:
        text += (
            f" On this machine {small.batch:,} inputs take it {milliseconds(after.latency)}; "
            f"the original takes {milliseconds(before.latency)}."
        )
    return text


def error(found: Findings | None) -> str:
    """How good the predictions are, before and after the cut."""
    if found is None:
        return "No test data were given, so nothing can be said of its errors."
    return _error_classes(found) if found.classes else _error_numbers(found)


def uncertainty(found: Findings | None) -> str:
    """Whether its confidence can be trusted."""
    if found is None:
        return "Without test data nothing can be said of how far its confidence can be trusted."
    if found.certainty is not None:
        return _sure(found.certainty)
    if found.coverage is not None:
        return _covered(found.coverage)
    return (
        "The targets are counts: for them this report draws no picture of how far its confidence "
        "can be trusted; the negative log-likelihood in the table is the measure."
    )


def sign_test(first: int, second: int) -> float:
    """Probability that chance splits as unevenly as this, either way (McNemar's exact test).

    Args:
        first: Points that speak for the one.
        second: Points that speak for the other.

    Returns:
        The two-sided p-value; 1 if there is no point.
    """
    count = first + second
    tail = sum(math.comb(count, k) for k in range(max(first, second), count + 1))
    return float(min(1.0, 2 * tail / 2**count))


def _error_classes(found: Findings) -> str:
    assert found.metrics.error is not None, "a classification has an error"
    points = found.metrics.num_points
    text = (
        f"On {points:,} test points the trained network is wrong for "
        f"{percent(found.metrics.error)} (always giving the most common answer: "
        f"{percent(found.trivial)})."
    )
    if found.small_error is None:
        return text
    first, second = found.only_fit_right or 0, found.only_small_right or 0
    text += f" The small network is wrong for {percent(found.small_error)}."
    if first == second:
        return text + " Neither is better."
    better = "the trained network" if first > second else "the small network"
    chance = sign_test(first, second)
    verdict = (
        "a difference that can be chance" if chance > _CHANCE else f"{better} is better indeed"
    )
    return (
        f"{text} Only one of the two is right in {first + second:,} points, {better} in "
        f"{max(first, second):,} of them: {verdict}."
    )


def _error_numbers(found: Findings) -> str:
    assert found.metrics.rmse is not None, "what is no classification has an RMSE"
    text = (
        f"On {found.metrics.num_points:,} test points the trained network typically misses the "
        f"target by {found.metrics.rmse:.3g} (always giving the mean: {found.trivial:.3g}); "
        "these are root mean square errors, in the unit of the targets."
    )
    if found.small_error is None:
        return text
    return f"{text} The small network misses by {found.small_error:.3g}."


def _sure(found: Certainty) -> str:
    gap = found.confidence - found.accuracy
    noise = _BAND * math.sqrt(found.accuracy * (1 - found.accuracy) / found.num_points)
    if abs(gap) <= max(noise, 0.005):
        verdict = "Its confidence can be taken at its word, as far as this many points can tell."
    elif gap > 0:
        verdict = "It is too sure of itself: it is right less often than it says."
    else:
        verdict = "It is too cautious: it is right more often than it says."
    text = (
        f"It is {percent(found.confidence)} sure of its answers on average, and right in "
        f"{percent(found.accuracy)} of the cases. {verdict}"
    )
    if not found.errors:
        return text
    return (
        f"{text} Its uncertainty points at its mistakes: among the {found.unsure:,} answers that "
        f"it is least sure of, a tenth of all, are {found.errors_unsure:,} of the "
        f"{found.errors:,} wrong ones."
        if found.errors_unsure > found.errors * found.unsure / found.num_points
        else f"{text} Its uncertainty does not point at its mistakes: among the {found.unsure:,} "
        f"answers that it is least sure of are {found.errors_unsure:,} of the {found.errors:,} "
        "wrong ones."
    )


def _covered(found: Coverage) -> str:
    noise = _BAND * math.sqrt(found.level * (1 - found.level) / found.num_points)
    if abs(found.share - found.level) <= noise:
        verdict = "Its intervals can be taken at their word, as far as this many points can tell."
    elif found.share < found.level:
        verdict = "Its intervals are too narrow: it is too sure of itself."
    else:
        verdict = "Its intervals are too wide: it is too cautious."
    return (
        f"Its {100 * found.level:.0f} % intervals hold the true value in {percent(found.share)} of "
        f"{found.num_points:,} cases. {verdict}"
    )


__all__ = [
    "cost",
    "error",
    "milliseconds",
    "percent",
    "sign_test",
    "size",
    "times",
    "uncertainty",
    "weights_left",
]
