"""The measured part of `docs/scaling.md`: the recorded rows, and what follows for a large network.

The projection multiplies recorded figures with each other; what it has to assume is in `ASSUMED`
and is written out on the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.markdown import table

#: Weights of the projected network, and numbers of GPUs.
WEIGHTS, GPUS = 1e9, (8, 64)
#: Bytes a second that a GPU sends to others. Not measured here: the makers' figures, halved.
ASSUMED = {8: 450e9 / 2, 64: 50e9 / 2}
#: Floats that fused Adam reads and writes a parameter: p, g, m, v in; p, m, v out.
ADAM_FLOATS = 7
#: Floats a weight that a lean step needs beside what it holds: drawn weight, gradient.
STEP_FLOATS = 2
#: Floats a weight that the lean mode holds, with the network's own weights and model reduction.
LEAN_FLOATS = 8 + 1 + 2
#: Steps between two passes of messages.
INTERVAL = 100
Row = Mapping[str, Any]


def render(folder: Path) -> str:
    """The tables of the page, in Markdown.

    Args:
        folder: `benchmarks/results`.
    """
    path = folder / "scaling.json"
    if not path.exists():
        return "Not measured yet."
    recorded = json.loads(path.read_text(encoding="utf-8"))
    rows: list[Row] = recorded["rows"]
    gpu = json.loads((folder / "gpu" / "checks.json").read_text(encoding="utf-8"))
    parts = [
        _times(rows),
        _peaks(rows),
        *_processes(recorded["measured"]),
        _projection(rows, gpu),
    ]
    return "\n\n".join(parts)


def _times(rows: Sequence[Row]) -> str:
    columns = {
        "network": "method",
        "batch": "batch",
        "threads": "threads",
        "Adam, ms": "adam_step_ms",
        "Turbo / Adam": "turbo_step_ratio",
        "lean / Adam": "lean_step_ratio",
        "an exchange, ns a weight": "exchange_ns_per_weight",
        "load": "load",
    }
    return _table(columns, [row for row in rows if "adam_step_ms" in row])


def _peaks(rows: Sequence[Row]) -> str:
    columns = {
        "network": "method",
        "batch": "batch",
        "Adam": "adam_peak_floats",
        "Turbo": "turbo_peak_floats",
        "lean": "lean_peak_floats",
    }
    measured = [row for row in rows if "lean_peak_floats" in row]
    return "Peak of resident memory, floats a parameter:\n\n" + _table(columns, measured)


def _processes(rows: Sequence[Row]) -> list[str]:
    """Rows of several processes, each beside the one process of the same network and batch."""
    measured = [row for row in rows if "processes" in row]
    alone = {(r["method"], r["batch"]): r for r in measured if r["processes"] == 1}
    compared = [
        dict(row) | {"speed": one["step_wall_ms"] / row["step_wall_ms"]}
        for row in measured
        if (one := alone.get((row["method"], row["batch"]))) is not None
    ]
    if not compared:
        return []
    columns = {
        "network": "method",
        "batch": "batch",
        "processes": "processes",
        "a step, wall ms": "step_wall_ms",
        "a step, CPU ms of a process": "step_cpu_ms",
        "speed / one process's": "speed",
        "an exchange, wall ms": "exchange_wall_ms",
        "load": "load",
    }
    return [
        "Processes that divide the batch and the messages among them, on the two cores of the same "
        "machine (Gloo, one thread each):\n\n" + _table(columns, compared)
    ]


def projected(rows: Sequence[Row], gpu: Mapping[str, Any], gpus: int) -> dict[str, float]:
    """Parts of a step of the lean mode with one copy of the network on every GPU.

    Args:
        rows: Recorded rows.
        gpu: The recorded checks on a GPU.
        gpus: How many.

    Returns:
        Gigabytes a GPU, and milliseconds of every part.
    """
    speed = gpu["checks"]["messages, speed"]
    largest = max((r for r in rows if "lean_step_ratio" in r), key=lambda r: r["parameters"])
    copy = 1e9 * speed["copy_GB_a_second"]
    adam = 4 * ADAM_FLOATS * WEIGHTS / copy
    exchange = 1e-9 * speed["ns_per_variable"]["row chains, full"] * WEIGHTS / gpus
    gradients = 2 * (gpus - 1) / gpus * 4 * WEIGHTS / ASSUMED[gpus]
    return {
        "GB a GPU, held": 4e-9 * LEAN_FLOATS * WEIGHTS,
        "GB a GPU, within a step": 4e-9 * (LEAN_FLOATS + STEP_FLOATS) * WEIGHTS,
        "elementwise work, ms": 1e3 * adam * largest["lean_step_ratio"],
        "sum of the gradients, ms": 1e3 * gradients,
        "messages, ms a step": 1e3 * exchange / INTERVAL,
    }


def _projection(rows: Sequence[Row], gpu: Mapping[str, Any]) -> str:
    if not any("lean_step_ratio" in row for row in rows):
        return "Nothing to project from yet."
    parts = {gpus: projected(rows, gpu, gpus) for gpus in GPUS}
    lines = [[name, *(f"{parts[gpus][name]:.3g}" for gpus in GPUS)] for name in parts[GPUS[0]]]
    headings = [f"{WEIGHTS:.0e} weights, lean mode", *(f"{gpus} GPUs" for gpus in GPUS)]
    return table(headings, lines)


def _table(columns: Mapping[str, str], rows: Sequence[Row]) -> str:
    cells = [[_cell(row.get(key)) for key in columns.values()] for row in rows]
    return table(list(columns), cells)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
