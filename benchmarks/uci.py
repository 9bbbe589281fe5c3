"""UCI regression: Turbo-VBI beside stock SVI with AutoNormal, five customary splits a set.

    python benchmarks/uci.py                        all sets -> JSON, table
    python benchmarks/uci.py --only yacht concrete  some of them, the other rows are kept
    python benchmarks/uci.py --missing              those without rows yet: after an interruption
    python benchmarks/uci.py --out FILE             where the JSON goes

One hidden layer of 50 units and learned noise, 3,000 steps for all, the same start; the default
three-layer prior for Turbo-VBI, a standard normal one for SVI. Each method has four settings to
choose from, per set, by the log-likelihood of a tenth of the first split's training points held
out, the mean of two such tenths: Turbo-VBI its defaults (learning rate 0.01, KL weight 1), the same
with KL weight 0.5 or 0.25, or a learning rate of 0.004 and a wider start (posterior scales 0.3 in
the place of 0.1 / sqrt(fan-in)); SVI, whose KL weight is 1, a learning rate of 0.001, 0.003, 0.01
or 0.03. Turbo-VBI's defaults, chosen or not, have a row of their own. Log-likelihood and RMSE of
the test points, in the target's unit; means over splits, in brackets the lowest and the highest.
Gains are over SVI, split by split, with their standard errors; a positive one is an improvement.
Not worse: neither mean gain is below minus its standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
from collections.abc import Mapping
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
PROTOCOL = " ".join(__doc__.split("\n\n")[-1].split())
SETS = (
    "yacht", "bostonHousing", "concrete", "wine-quality-red", "power-plant",
    "protein-tertiary-structure",
)  # fmt: skip
SPLITS, HOLD_OUTS, STEPS, HIDDEN = 5, 2, 3000, 50
TURBO_PRIOR, SVI_PRIOR = priors.ThreeLayer(), priors.Normal(1.0)
DEFAULTS = "defaults"
# By the text that names them in the table.
TURBO_SETTINGS: Mapping[str, AnyEngine] = {
    DEFAULTS: engines.Turbo(),
    "KL 0.5": engines.Turbo(kl_weight=0.5),
    "KL 0.25": engines.Turbo(kl_weight=0.25),
    "lr 0.004": engines.Turbo(lr=4e-3, init_scale=0.3),
}
SVI_SETTINGS: Mapping[str, AnyEngine] = {
    f"lr {rate:g}": engines.SVI(lr=rate) for rate in (1e-3, 3e-3, 1e-2, 3e-2)
}
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


def validated(name: str, prior: Prior, settings: Mapping[str, AnyEngine]) -> dict[str, float]:
    """Log-likelihood of the first split's validation points, by setting; no test point is seen."""
    parts = [data.uci(name, 0, seed=seed) for seed in range(HOLD_OUTS)]
    held_out = [replace(part, test=part.validation) for part in parts]
    return {
        text: statistics.mean(
            score(splits, prior, engine, seed).log_likelihood
            for seed, splits in enumerate(held_out)
        )
        for text, engine in settings.items()
    }


def tested(name: str, prior: Prior, engine: AnyEngine) -> list[Score]:
    """Scores of all splits, trained on all training points."""
    return [
        score(data.uci(name, split, validation=0.0), prior, engine, split)
        for split in range(SPLITS)
    ]


def measure(name: str) -> tuple[list[Row], Row]:
    """One set: rows of both methods with chosen settings and of Turbo-VBI's defaults; the tuning.

    The tuning is the validation log-likelihood of every setting, by method.
    """
    turbo = validated(name, TURBO_PRIOR, TURBO_SETTINGS)
    svi = validated(name, SVI_PRIOR, SVI_SETTINGS)
    ours, theirs = max(turbo, key=turbo.__getitem__), max(svi, key=svi.__getitem__)
    rival = tested(name, SVI_PRIOR, SVI_SETTINGS[theirs])
    default = tested(name, TURBO_PRIOR, TURBO_SETTINGS[DEFAULTS])
    tuned = default if ours == DEFAULTS else tested(name, TURBO_PRIOR, TURBO_SETTINGS[ours])
    rows = [
        row_of("Turbo-VBI", name, ours, tuned) | against(tuned, rival),
        row_of("Turbo-VBI, not tuned", name, DEFAULTS, default) | against(default, rival),
        row_of("SVI, AutoNormal", name, theirs, rival),
    ]
    return rows, {"set": name, "Turbo-VBI": rounded(turbo), "SVI, AutoNormal": rounded(svi)}


def rounded(by_setting: dict[str, float]) -> dict[str, float]:
    """To a thousandth of a nat."""
    return {text: round(value, 3) for text, value in by_setting.items()}


def row_of(method: str, name: str, setting: str, scores: list[Score]) -> Row:
    """What a method did on a set."""
    return {
        "method": method,
        "set": name,
        "setting": setting,
        "test_log_likelihood": summary([entry.log_likelihood for entry in scores]),
        "test_rmse": summary([entry.rmse for entry in scores]),
        "weights_left_percent": round(100 * statistics.mean(s.left for s in scores), 1),
    }


def against(ours: list[Score], theirs: list[Score]) -> Row:
    """Gains over SVI, positive where ours is better, and the verdict."""
    pairs = list(zip(ours, theirs, strict=True))
    gains = {
        "gain": [a.log_likelihood - b.log_likelihood for a, b in pairs],
        "rmse_gain": [b.rmse - a.rmse for a, b in pairs],
    }
    means = {key: statistics.mean(values) for key, values in gains.items()}
    errors = {key: statistics.stdev(values) / len(pairs) ** 0.5 for key, values in gains.items()}
    # Texts: tables round numbers to two places.
    return {key: f"{means[key]:+.3f} ± {errors[key]:.3f}" for key in gains} | {
        "not_worse": "yes" if all(means[key] >= -errors[key] for key in gains) else "no"
    }


def summary(values: list[float]) -> dict[str, float]:
    """Mean (in the place of the median) and range over splits."""
    return {
        "median": round(statistics.mean(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def recorded(out: Path) -> dict[str, list[Row]]:
    """Rows and tuning in a file, if measured under the present protocol: others do not compare."""
    old = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    same = old.get("protocol") == PROTOCOL
    return {key: old[key] if same else [] for key in ("rows", "tuning")}


def write(out: Path, rows: list[Row], tuning: Row) -> None:
    """Put one set's results into the file, in the place of older ones."""
    name = tuning["set"]
    kept = {key: [e for e in old if e["set"] != name] for key, old in recorded(out).items()}
    result = {
        "case": "UCI regression",
        "protocol": PROTOCOL,
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
        "readme": False,
        "rows": sorted(kept["rows"] + rows, key=_place),
        "tuning": sorted([*kept["tuning"], tuning], key=_place),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _place(entry: Row) -> int:
    return SETS.index(entry["set"])


def main() -> None:
    """Measure, print the rows, write the JSON after every set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS, help="some of the sets")
    parser.add_argument("--missing", action="store_true", help="only sets that have no rows yet")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    arguments = parser.parse_args()
    there = {row["set"] for row in recorded(arguments.out)["rows"]} if arguments.missing else set()
    for name in arguments.only:
        if name not in there:
            rows, tuning = measure(name)
            print(*rows, sep="\n", flush=True)
            write(arguments.out, rows, tuning)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
