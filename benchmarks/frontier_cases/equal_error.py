"""The smallest network of every family of methods that errs at most so much.

Made from a table of the frontier: where a family was measured at several sizes, its row with the
fewest weights among those whose median error is low enough, and of all seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.frontier_cases.methods import DENSE, family

#: What is compared at equal error: the error itself, sizes, and how regular the supports are.
COLUMNS = (
    "method",
    "seeds",
    "structure",
    "test_error_percent",
    "weights_left_percent",
    "clusters",
    "mean_cluster_length",
    "index_bits_run_length",
    "block_fill_percent",
    "bytes",
)
README_COLUMNS = (
    "method",
    "structure",
    "test_error_percent",
    "weights_left_percent",
    "mean_cluster_length",
    "index_bits_run_length",
    "bytes",
)

Row = Mapping[str, Any]


def table(frontier: Mapping[str, Any], limit: float) -> dict[str, Any]:
    """One row a family, the smallest first, in the format of `tools/make_tables.py`.

    Args:
        frontier: A table of all methods, see `tables.table`.
        limit: Test error in percent that a row may have.

    Returns:
        The table; published figures are not in it.
    """
    seeds = max((len(row.get("seeds", ())) for row in frontier["rows"]), default=0)
    smallest: dict[str, Row] = {}
    for row in frontier["rows"]:
        name = family(row["method"])
        complete = len(row.get("seeds", ())) == seeds
        if name != DENSE and complete and _median(row, "test_error_percent") <= limit:
            smallest[name] = min(row, smallest.get(name, row), key=_left)
    rows = [{key: row[key] for key in COLUMNS if key in row} for row in smallest.values()]
    return {
        "case": f"At equal error: {frontier['case'].removeprefix('Frontier: ')}",
        "protocol": "Of every family of methods in the table of the frontier, the smallest "
        f"network whose median test error is at most {limit:g} %",
        "device": frontier["device"],
        "readme": list(README_COLUMNS) if seeds > 1 else False,  # one seed is no figure to quote
        "rows": sorted(rows, key=_left),
    }


def _median(row: Row, column: str) -> float:
    return float(row[column]["median"])


def _left(row: Row) -> float:
    return _median(row, "weights_left_percent")
