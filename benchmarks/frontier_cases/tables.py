"""From stored runs to one results file a case, in the format of `tools/make_tables.py`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import stored, summary, write_json
from benchmarks.frontier_cases import equal_error, plots
from benchmarks.frontier_cases.anchors import ANCHORS
from benchmarks.frontier_cases.cases import CASES
from benchmarks.frontier_cases.methods import PARTIAL, ablations_of, methods_of
from benchmarks.frontier_cases.recipes import FULL
from benchmarks.frontier_cases.runs import RESULTS, Run, measured_recipe

Figures = Mapping[str, Any]

#: Columns, by the name that a run gives them; all are summarised over seeds.
COLUMNS = {
    "error_percent": "test_error_percent",
    "posterior_mean_error_percent": "posterior_mean_error_percent",
    "weights_left_percent": "weights_left_percent",
    "parameters": "parameters",
    "flops_percent": "flops_percent",
    "clusters": "clusters",
    "mean_cluster_length": "mean_cluster_length",
    "index_bits_run_length": "index_bits_run_length",
    "block_fill_percent": "block_fill_percent",
    "bytes": "bytes",
    "quantised_error_percent": "quantised_error_percent",
    "cpu_seconds": "cpu_seconds",
}

FRONTIER_CAPTION = "Test error against size; bars are ranges over seeds, hollow markers published."
SUPPORTS_CAPTION = "What is left of the first two weights, seed 0, hidden units re-ordered."


def results_file(case: str, kind: str = "") -> Path:
    """Where the table of a case is kept."""
    return RESULTS.parent / f"frontier_{case}{kind}.json"


def found_runs(case: str, methods: Iterable[str], seeds: Sequence[int]) -> dict[str, list[Figures]]:
    """Stored runs of methods, those made with the present recipes."""
    found: dict[str, list[Figures]] = {}
    for method in methods:
        for seed in seeds:
            run = Run(case, method, seed)
            kept = stored(run.path, measured_recipe(run))
            if kept is not None:
                found.setdefault(method, []).append(kept)
    return found


def row(method: str, runs: Sequence[Figures]) -> dict[str, Any]:
    """One line of a table: medians and ranges, and the structure of the median seed."""
    order = sorted(runs, key=lambda run: float(run["error_percent"]))
    result: dict[str, Any] = {
        "method": method,
        "seeds": sorted(run["recipe"]["seed"] for run in runs),
        "structure": order[len(order) // 2]["structure"],
    }
    for key, column in COLUMNS.items():
        values = [run[key] for run in runs]
        result[column] = None if None in values else summary(values)
    taught = [run["teacher_seconds"] for run in runs if run.get("teacher_seconds")]
    return result | ({"teacher_seconds": summary(taught)} if taught else {})


def table(case: str, seeds: Sequence[int], protocol: str) -> dict[str, Any]:
    """All methods of a case that were measured, and what is published."""
    runs = found_runs(case, methods_of(case), seeds)
    rows = [_with_missing(row(method, found), seeds) for method, found in runs.items()]
    return _result(f"Frontier: {CASES[case].title}", protocol, runs, rows) | {
        "rows": rows + [anchor.row() for anchor in ANCHORS.get(case, ())],
    }


def ablation_table(case: str, seeds: Sequence[int], protocol: str) -> dict[str, Any]:
    """The full method and its ablations, those that were measured."""
    runs = found_runs(case, [FULL, *ablations_of(case)], seeds)
    rows = [_with_missing(row(method, found), seeds) for method, found in runs.items()]
    return _result(f"Ablation: {CASES[case].title}", protocol, runs, rows)


def _with_missing(row: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """A row whose name tells if it is not of all seeds."""
    if len(row["seeds"]) == len(seeds):
        return row
    there = ", ".join(map(str, row["seeds"]))
    return {**row, "method": f"{row['method']}{PARTIAL}{there} alone)"}


def _result(
    title: str, protocol: str, runs: Mapping[str, Sequence[Figures]], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "case": title,
        "protocol": protocol,
        "device": _devices(runs),
        "readme": False,
        "rows": rows,
        "recipes": {method: found[0]["recipe"] for method, found in runs.items()},
    }


def _devices(runs: Mapping[str, Sequence[Figures]]) -> str:
    """Where the methods ran, each device with the methods on it where there are several."""
    on: dict[str, list[str]] = {}
    for method, found in runs.items():
        for run in found:
            methods = on.setdefault(run["environment"]["device"], [])
            if method not in methods:
                methods.append(method)
    if len(on) <= 1:
        return ", ".join(f"{device}, 1 thread" for device in on)
    return "; ".join(f"{device} ({', '.join(methods)})" for device, methods in on.items())


def write_tables(
    cases: Iterable[str], seeds: Sequence[int], protocol: str, *, pictures: bool = False
) -> list[Path]:
    """Write the results files of all cases that have runs.

    Args:
        cases: Names of cases.
        seeds: Seeds of the rows.
        protocol: How it was measured, for the tables' captions.
        pictures: Whether to draw the frontier, and the supports of the networks that are kept;
            otherwise the pictures that are there stay.

    Returns:
        The files' paths.
    """
    written = []
    for case in cases:
        for kind, result in _tables_of(case, seeds, protocol):
            path = results_file(case, kind)
            if not kind:
                result["pictures"] = _draw(case, result) if pictures else _drawn(path)
            write_json(path, result)
            written.append(path)
    return written


def _tables_of(
    case: str, seeds: Sequence[int], protocol: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tables of a case that have something to tell, each with its part of the file's name."""
    frontier = table(case, seeds, protocol)
    if frontier["recipes"]:
        yield "", frontier
    smallest = equal_error.table(frontier, CASES[case].compared_at)
    if len(smallest["rows"]) > 1:
        yield "_equal_error", smallest
    ablation = ablation_table(case, seeds, protocol)
    if len(ablation["recipes"]) > 1:
        yield "_ablation", ablation


def _draw(case: str, result: dict[str, Any]) -> list[dict[str, str]]:
    """Draw what can be drawn of a case; files and their captions."""
    figure = plots.frontier(result)
    drawn = [{"file": plots.save(figure, f"frontier_{case}.svg"), "caption": FRONTIER_CAPTION}]
    networks = plots.pictured(case)
    if networks:
        file = plots.save(plots.supports(case, networks), f"supports_{case}.png")
        drawn.append({"file": file, "caption": SUPPORTS_CAPTION})
    return drawn


def _drawn(path: Path) -> list[dict[str, str]]:
    """The pictures that an earlier table of the case has."""
    if not path.exists():
        return []
    pictures: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8")).get(
        "pictures", []
    )
    return pictures


__all__ = ["ablation_table", "found_runs", "results_file", "row", "table", "write_tables"]
