"""Sparse regression with a clustered support: which prior and which q(w) recover it.

    python benchmarks/recovery.py      ten seeds of every row -> JSON, table

1,000 weights, 5 clusters of 10 non-zeros, noise 0.02, 150 or 250 measurements; the model and the
engine's settings are those of ``models/structured_recovery.py``.
"""

from __future__ import annotations

import json
import platform
import runpy
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pyro_turbovbi import engines, supports

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
SEEDS = tuple(range(10))
#: q(w) with independent weights, trained by Adam on full batches.
DIAGONAL = engines.Turbo(
    lr=1e-2,
    kl_weight=1.0,
    annealing=engines.SpikeAnnealing(start=10.0, concentration=1.0, until=0.7),
)
DIAGONAL_STEPS = 3000

#: The gallery's file, loaded by path: the gallery is no package.
model = SimpleNamespace(**runpy.run_path(str(ROOT / "models" / "structured_recovery.py")))


def scores(engine: engines.Turbo, support: supports.Support, measurements: int) -> list[float]:
    """Support F1 over seeds."""
    steps = model.ITERATIONS if engine.full_batch else DIAGONAL_STEPS
    return [
        model.recover(support, measurements, seed, engine=engine, iterations=steps)
        for seed in SEEDS
    ]


def summary(values: list[float]) -> dict[str, float]:
    """Median and range over seeds."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def main() -> None:
    """Run all rows, print them, write the JSON."""
    chain, independent = supports.Chain(0.05, mean_run=10.0), supports.Independent(0.05)
    rows: list[dict[str, Any]] = []
    for method, engine, support in (
        ("exact q(w), chain support", model.ENGINE, chain),
        ("exact q(w), independent support", model.ENGINE, independent),
        ("diagonal q(w), chain support", DIAGONAL, chain),
        ("diagonal q(w), independent support", DIAGONAL, independent),
    ):
        row: dict[str, Any] = {"method": method, "seeds": list(SEEDS)}
        for measurements in (150, 250):
            row[f"support_f1_{measurements}"] = summary(scores(engine, support, measurements))
        rows.append(row)
        print(row, flush=True)
    result = {
        "case": "Recovery of a clustered support",
        "protocol": "1,000 weights, 50 non-zero in 5 clusters of 10, noise 0.02; exact q(w): "
        f"{model.ITERATIONS} iterations; diagonal q(w): {DIAGONAL_STEPS} full-batch Adam steps; "
        "support F1, median and range of 10 problems",
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
        "rows": rows,
    }
    (RESULTS / "structured_recovery.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
