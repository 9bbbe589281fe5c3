"""Sparse regression with a clustered support: which prior and which q(w) recover it.

    python benchmarks/recovery.py              ten seeds of every row -> two JSON files, tables
    python benchmarks/recovery.py --only gated  one of them

Clusters: 1,000 weights, 5 clusters of 10 non-zeros, noise 0.02, 150 or 250 measurements; the model
and the engine's settings are those of ``models/structured_recovery.py``. Gates: 20 outputs of 200
inputs, of which 20 matter, 30, 40 or 60 measurements, ``models/gated_recovery.py``.
"""

from __future__ import annotations

import argparse
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
    init_scale=0.3,
    kl_weight=1.0,
    annealing=engines.SpikeAnnealing(start=10.0, concentration=1.0, until=0.7),
)
DIAGONAL_STEPS = 3000

#: The gallery's files, loaded by path: the gallery is no package.
model, gated_model = (
    SimpleNamespace(**runpy.run_path(str(ROOT / "models" / f"{name}_recovery.py")))
    for name in ("structured", "gated")
)


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


def clusters() -> None:
    """Chain against independent support, exact and diagonal q(w)."""
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
    write(
        "structured_recovery",
        "Recovery of a clustered support",
        "1,000 weights, 50 non-zero in 5 clusters of 10, noise 0.02; exact q(w): "
        f"{model.ITERATIONS} iterations; diagonal q(w): {DIAGONAL_STEPS} full-batch Adam steps; "
        "support F1, median and range of 10 problems",
        rows,
    )


def gates() -> None:
    """A gate per input against chains over the outputs and independent support, exact q(w)."""
    rows: list[dict[str, Any]] = []
    for method, support in (
        ("gate per input, chains over outputs", gated_model.GATED),
        ("chains over outputs", supports.Chain(0.05, mean_run=4.0, dim=0)),
        ("independent support", supports.Independent(0.05)),
    ):
        row: dict[str, Any] = {"method": method, "seeds": list(SEEDS)}
        for measurements in (30, 40, 60):
            found = [gated_model.recover(support, measurements, seed) for seed in SEEDS]
            row[f"support_f1_{measurements}"] = summary([score for score, _ in found])
            row[f"inputs_f1_{measurements}"] = summary([score for _, score in found])
        rows.append(row)
        print(row, flush=True)
    write(
        "gated_recovery",
        "Recovery of relevant inputs",
        "20 outputs of 200 inputs, of which 20 matter to half of the outputs each, in runs of 4; "
        f"noise 0.02; exact q(w), {gated_model.ITERATIONS} iterations; an input is found where a "
        "weight of it is active; F1 of weights and of inputs, median and range of 10 problems",
        rows,
    )


def write(name: str, case: str, protocol: str, rows: list[dict[str, Any]]) -> None:
    """Write a results file."""
    result = {
        "case": case,
        "protocol": protocol,
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
        "readme": name == "structured_recovery",
        "rows": rows,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


CASES = {"clusters": clusters, "gated": gates}


def main() -> None:
    """Run the rows, print them, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CASES, help="one of the problems")
    only = parser.parse_args().only
    for name, case in CASES.items():
        if only in (None, name):
            case()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
