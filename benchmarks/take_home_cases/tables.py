"""From the figures of networks to two tables a case: files and times."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.common import summary, write_json
from benchmarks.frontier_cases import runs
from benchmarks.frontier_cases.cases import CASES
from benchmarks.take_home_cases import int8, speed

Figures = Mapping[str, Any]
Row = dict[str, Any]

#: What is timed, and the runtime of the dense network that it is timed against, as tables say it.
AGAINST = {
    speed.TORCH: (speed.TORCH, speed.TORCH),
    speed.ACCELERATED: (speed.ACCELERATED, speed.TORCH),
    "torch, both accelerated": (speed.ACCELERATED, speed.ACCELERATED),
    speed.ONNXRUNTIME: (speed.ONNXRUNTIME, speed.ONNXRUNTIME),
    int8.DYNAMIC: (int8.DYNAMIC, speed.TORCH),
    int8.WEIGHTS: (int8.WEIGHTS, speed.TORCH),
}
FILES, SPEED = "take_home", "take_home_speed"


def by_method(found: Sequence[Figures]) -> dict[str, list[Figures]]:
    """The figures of the seeds of every method, in the order in which methods came."""
    methods: dict[str, list[Figures]] = {}
    for figures in found:
        methods.setdefault(figures["method"], []).append(figures)
    return methods


def file_rows(found: Sequence[Figures]) -> Iterator[Row]:
    """A row of every method and form of its file.

    Args:
        found: Figures of networks of one case.

    Yields:
        Medians and ranges over seeds.
    """
    for method, every in by_method(found).items():
        for form in dict.fromkeys(form for one in every for form in one["files"]):
            seeds = [one for one in every if form in one["files"]]
            files = [one["files"][form] for one in seeds]
            sizes = [one["dense"]["bytes"] / one["files"][form]["bytes"] for one in seeds]
            yield {
                **_head(method, seeds),
                "form": form,
                "test_error_percent": summary([file["error_percent"] for file in files]),
                "bytes": summary([file["bytes"] for file in files]),
                "times_smaller": summary(sizes),
            }


def speed_rows(found: Sequence[Figures]) -> Iterator[Row]:
    """A row of every method and runtime.

    Args:
        found: Figures of networks of one case.

    Yields:
        Medians and ranges over seeds.
    """
    for method, every in by_method(found).items():
        for runtime in AGAINST:
            seeds = [one for one in every if _seconds(one, runtime, min(speed.BATCHES))]
            if seeds:
                reductions = [one["dense"]["flops"] / one["flops"] for one in seeds]
                yield {
                    **_head(method, seeds),
                    "runtime": runtime,
                    "flops": summary([one["flops"] for one in seeds]),
                    "flops_reduction": summary(reductions),
                    **_speeds(seeds, runtime, reductions),
                }


def _speeds(seeds: Sequence[Figures], runtime: str, reductions: Sequence[float]) -> Row:
    """Latency and speed-up at every batch size, and what the larger one makes of the FLOPs."""
    row: Row = {}
    for size in speed.BATCHES:
        pairs = [_seconds(one, runtime, size) for one in seeds]
        gains = [dense / own for own, dense in filter(None, pairs)]
        row[f"latency_{size}_us"] = summary([1e6 * own for own, _ in filter(None, pairs)])
        row[f"speed_up_{size}"] = summary(gains)
    shares = [gain / less for gain, less in zip(gains, reductions, strict=True)]
    return row | {"speed_up_share": summary(shares)}


def write_tables(case: str, found: Sequence[Figures], protocol: str) -> list[dict[str, Any]]:
    """Write both tables of a case.

    Args:
        case: Name of the case.
        found: Figures of its networks.
        protocol: How they were measured.

    Returns:
        What was written: nothing if there are no networks.
    """
    if not found:
        return []
    kinds = ((FILES, "files", file_rows(found)), (SPEED, "times", speed_rows(found)))
    results = []
    for name, what, rows in kinds:
        result = {
            "case": f"Taken home, {what}: {CASES[case].title}",
            "protocol": protocol,
            "device": _devices(found),
            "readme": False,
            "rows": list(rows),
        }
        write_json(runs.RESULTS.parent / f"{name}_{case}.json", result)
        results.append(result)
    return results


def environment() -> dict[str, Any]:
    """Where something is measured."""
    return {
        "device": f"{platform.machine()} CPU, 1 thread",
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def _head(method: str, seeds: Sequence[Figures]) -> Row:
    """Method, seeds, and the structure of the seed of median size."""
    order = sorted(seeds, key=lambda one: float(one["flops"]))
    return {
        "method": method,
        "seeds": sorted(one["seed"] for one in seeds),
        "structure": order[len(order) // 2]["structure"],
    }


def _seconds(one: Figures, runtime: str, size: int) -> tuple[float, float] | None:
    """Time of a batch through a network and through the dense one that it took turns with."""
    own, dense = AGAINST[runtime]
    group = f"{size}, integers" if own in int8.KINDS else str(size)
    seconds = one["speed"]["seconds"].get(group)
    if seconds is None:
        return None
    return seconds[own], seconds[speed.DENSE + dense]


def _devices(found: Sequence[Figures]) -> str:
    devices = {one["environment"]["device"]: None for one in found}
    loads = [one["environment"]["load"] for one in found]
    return f"{', '.join(devices)}, load average {min(loads):g} - {max(loads):g}"
