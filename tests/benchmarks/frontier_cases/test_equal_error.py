"""The smallest networks of equal error."""

from __future__ import annotations

from typing import Any

from benchmarks.frontier_cases import equal_error


def row(method: str, error: float, left: float, seeds: int = 3) -> dict[str, Any]:
    values = {"test_error_percent": error, "weights_left_percent": left, "cpu_seconds": 5.0}
    figures = {key: {"min": 0.0, "median": value, "max": 9.0} for key, value in values.items()}
    return {"method": method, "seeds": list(range(seeds)), "structure": "4-2", **figures}


def smallest(*rows: dict[str, Any]) -> list[str]:
    frontier = {"case": "Frontier: a net", "device": "a processor", "rows": rows}
    return [found["method"] for found in equal_error.table(frontier, 2.0)["rows"]]


def test_the_smallest_of_a_family_that_errs_little_enough() -> None:
    assert smallest(
        row("magnitude, 3 %", 1.7, 3.0),
        row("magnitude, 2 %", 2.0, 2.0),
        row("magnitude, 1 %", 2.1, 1.0),
        row("sparse VD", 1.9, 2.5),
        row("BC-GNJ", 2.01, 0.1),
        row("dense Adam", 1.6, 100.0),
        {"method": "VD (published)", "test_error_percent": 1.0, "source": "a paper"},
    ) == ["magnitude, 2 %", "sparse VD"]


def test_rows_of_fewer_seeds_than_others_do_not_count() -> None:
    whole, part = row("magnitude, 3 %", 1.7, 3.0), row("magnitude, 2 % (of seeds 0 alone)", 1, 2, 1)
    assert smallest(whole, part) == ["magnitude, 3 %"]
    assert smallest(part, row("magnitude, 4 % (of seeds 0 alone)", 1, 4, 1)) == [part["method"]]


def test_the_table_says_at_which_error() -> None:
    frontier = {"case": "Frontier: a net", "device": "a processor", "rows": [row("a", 1.0, 2.0)]}
    table = equal_error.table(frontier, 1.5)
    assert table["case"] == "At equal error: a net"
    assert "at most 1.5 %" in table["protocol"]
    assert table["rows"][0]["structure"] == "4-2"
    assert "cpu_seconds" not in table["rows"][0]
