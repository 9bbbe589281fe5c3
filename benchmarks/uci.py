"""UCI regression: Turbo-VBI beside stock SVI with AutoNormal, five customary splits a set.

    python benchmarks/uci.py                        all sets -> JSON, table
    python benchmarks/uci.py --only yacht concrete  some of them, the other rows are kept
    python benchmarks/uci.py --out FILE             where the JSON goes

One hidden layer of 50 units and learned noise, 3,000 steps for both, the same start. Turbo-VBI with
its default prior and settings; SVI with a standard normal prior and the learning rate of 0.001 or
0.01 that does better on a validation part of the first split's training points. Log-likelihood and
RMSE of the test points, in the target's unit; means over splits, in brackets the lowest and the
highest. Not worse: the mean difference of the two log-likelihoods over splits is above minus one
standard error of itself.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import data, engines, likelihoods, priors
from pyro_turbovbi.engines.protocol import AnyEngine
from pyro_turbovbi.priors.base import Prior

RESULTS = Path(__file__).parent / "results" / "uci.json"
SETS = (
    "yacht", "bostonHousing", "concrete", "wine-quality-red", "power-plant",
    "protein-tertiary-structure",
)  # fmt: skip
SPLITS, STEPS, HIDDEN = 5, 3000, 50
LEARNING_RATES = (1e-3, 1e-2)
Row = dict[str, Any]


class Score(NamedTuple):
    """Test log-likelihood in nats per point, RMSE (both in the target's unit), share of weights."""

    log_likelihood: float
    rmse: float
    left: float


def score(splits: data.Splits, prior: Prior, engine: AnyEngine, seed: int) -> Score:
    """Train on the training points, score on the test points."""
    features, points = splits.train.x.shape[1], len(splits.train.x)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(scale=0.5), prior=prior)
    batch = 32 if points < 2000 else 128
    epochs = math.ceil(STEPS / math.ceil(points / batch))
    fit = ptv.fit(
        bnn, splits.train, engine=engine, epochs=epochs, batch_size=batch, seed=seed, progress=False
    )
    metrics, masks = fit.evaluate(splits.test), fit.masks()
    assert metrics.rmse is not None
    left = sum(int(mask.sum()) for mask in masks.values())
    return Score(
        log_likelihood=-metrics.nll - math.log(splits.target_scale),
        rmse=metrics.rmse * splits.target_scale,
        left=left / sum(mask.numel() for mask in masks.values()),
    )


def learning_rate(name: str) -> float:
    """SVI's, by the log-likelihood of validation points."""
    parts = data.uci(name, 0)
    held_out = replace(parts, test=parts.validation)
    by_rate = {
        rate: score(held_out, priors.Normal(1.0), engines.SVI(lr=rate), 0).log_likelihood
        for rate in LEARNING_RATES
    }
    return max(by_rate, key=lambda rate: by_rate[rate])


def rows_of(name: str) -> list[Row]:
    """Both methods on one set."""
    rate = learning_rate(name)
    methods: dict[str, tuple[Prior, AnyEngine]] = {
        "Turbo-VBI": (priors.ThreeLayer(), engines.Turbo()),
        "SVI, AutoNormal": (priors.Normal(1.0), engines.SVI(lr=rate)),
    }
    found: dict[str, list[Score]] = {
        method: [
            score(data.uci(name, split, validation=0.0), prior, engine, split)
            for split in range(SPLITS)
        ]
        for method, (prior, engine) in methods.items()
    }
    ours, theirs = found.values()
    gains = [a.log_likelihood - b.log_likelihood for a, b in zip(ours, theirs, strict=True)]
    error = statistics.stdev(gains) / len(gains) ** 0.5
    rows = []
    for method, scores in found.items():
        row: Row = {"method": method, "set": name}
        for key in Score._fields[:2]:
            row[f"test_{key}"] = summary([getattr(entry, key) for entry in scores])
        row["weights_left_percent"] = round(100 * statistics.mean(s.left for s in scores), 1)
        rows.append(row)
    rows[0]["gain"], rows[0]["gain_error"] = round(statistics.mean(gains), 3), round(error, 3)
    rows[0]["not_worse"] = "yes" if statistics.mean(gains) >= -error else "no"
    rows[1]["lr"] = f"{rate:g}"  # a text: tables round numbers
    return rows


def summary(values: list[float]) -> dict[str, float]:
    """Mean (in the place of the median) and range over splits."""
    return {
        "median": round(statistics.mean(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def main() -> None:
    """Measure, print the rows, write the JSON after every set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS, help="some of the sets")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    arguments = parser.parse_args()
    old: list[Row] = json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    rows = {name: [row for row in old if row["set"] == name] for name in SETS}
    for name in arguments.only:
        rows[name] = rows_of(name)
        print(*rows[name], sep="\n", flush=True)
        result = {
            "case": "UCI regression",
            "protocol": " ".join(__doc__.split("\n\n")[-1].split()),
            "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
            "readme": False,
            "rows": [row for name in SETS for row in rows[name]],
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
