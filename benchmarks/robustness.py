"""Do default settings hold on thirty seeds of three small nets? NaN, empty nets, damage by pruning.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/robustness.py      what FILE lacks -> JSON, table
    python benchmarks/robustness.py --only mlp --seeds 2         one net, seeds 0 and 1
    python benchmarks/robustness.py --out FILE                   where the runs are kept

Scikit-learn's 8x8 digits, 1,257 training points, batch 64; Turbo-VBI and prior with default
settings, 75 epochs. A run fails where something in its history, posterior or outputs is not finite;
where the compressed net is empty, that is, says the same of every image; or where its error and
that of the posterior mean differ by 0.3 points or more. Errors of this comparison are counted over
all 1,797 images, those trained on included, since one of the 360 test images is 0.28 points. The
test error is that of the 360. "Error with new statistics" is that of the pruned net whose batch
normalisations have been given the statistics of the training data anew.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from benchmarks.common import Split, error_percent, summary, write_json
from pyro_turbovbi import data, likelihoods
from pyro_turbovbi.compression.batch_statistics import batch_norms, with_statistics_of

RESULTS = Path(__file__).parent / "results" / "robustness.json"
SEEDS, EPOCHS, BATCH = 30, 75, 64
#: Largest difference of errors, in points, that is none.
TOLERANCE = 0.3
Run = dict[str, Any]


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation beside a plain connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Images [batch, channels, height, width] to the same shape."""
        hidden = self.first_norm(self.first(x)).relu()
        return (self.second_norm(self.second(hidden)) + x).relu()  # type: ignore[no-any-return]


def mlp() -> nn.Sequential:
    """64-100-50-10."""
    return nn.Sequential(
        nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10)
    )


def lenet() -> nn.Sequential:
    """LeNet-5's plan for 8x8 images: 8-16-64."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def residual_net() -> nn.Sequential:
    """A stem and two residual blocks of twelve channels."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU()),
        *(Residual(12), Residual(12)),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 10)),
    )


NETS: dict[str, Callable[[], nn.Sequential]] = {
    "mlp": mlp,
    "lenet": lenet,
    "residual": residual_net,
}
TITLES = {"mlp": "MLP", "lenet": "LeNet-5-like", "residual": "residual"}


def run(name: str, seed: int, epochs: int = EPOCHS) -> Run:
    """Fit one net from one seed, compress it, and compare.

    Args:
        name: Which of `NETS`.
        seed: Of start weights, division of the data and training.
        epochs: Passes over the training data.

    Returns:
        What was measured; "failures" says in words what went wrong, and is empty otherwise.
    """
    torch.manual_seed(seed)
    splits = data.digits(seed)
    net = NETS[name]()
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=ptv.priors.ThreeLayer())
    fit = ptv.fit(bnn, splits.train, epochs=epochs, batch_size=BATCH, seed=seed, progress=False)
    small = fit.compress(splits.train)
    parts = (splits.train, splits.validation, splits.test)
    everything = (torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]))
    mean, pruned = (error_percent(n, everything) for n in (fit.mean_net(), small.module))
    renewed = pruned
    if batch_norms(small.module):
        renewed = error_percent(with_statistics_of(small.module, splits.train.x), everything)
    masks = fit.masks()
    kept = sum(int(mask.sum()) for mask in masks.values())
    return {
        "net": name,
        "seed": seed,
        "mean_error_percent": round(mean, 4),
        "pruned_error_percent": round(pruned, 4),
        "renewed_error_percent": round(renewed, 4),
        "test_error_percent": round(error_percent(small.module, (splits.test.x, splits.test.y)), 4),
        "weights_left_percent": round(100.0 * kept / sum(m.numel() for m in masks.values()), 3),
        "seconds": round(fit.seconds, 3),
        "failures": list(_failures(fit, small.module, everything, pruned - mean)),
    }


def _failures(fit: ptv.Fit, module: nn.Module, points: Split, gap: float) -> Iterator[str]:
    numbers = [record.loss for record in fit.history] + [fit.elbo or 0.0]
    tensors = [*fit.posterior.mean().values(), *(fit.posterior.scale() or {}).values()]
    with torch.no_grad():
        outputs = module(points[0])
    if not all(map(math.isfinite, numbers)) or not all(bool(t.isfinite().all()) for t in tensors):
        yield "not finite: history or posterior"
    if not bool(outputs.isfinite().all()):
        yield "not finite: outputs"
    elif bool((outputs == outputs[:1]).all()):
        yield "empty: the same output for every image"
    if not abs(gap) < TOLERANCE:
        yield f"pruning changes the error by {gap:+.2f} points"


def row_of(name: str, runs: list[Run]) -> dict[str, Any]:
    """A net's row of the table."""
    gaps = [abs(r["pruned_error_percent"] - r["mean_error_percent"]) for r in runs]
    failures = [failure for r in runs for failure in r["failures"]]
    return {
        "method": TITLES[name],
        "seeds": [r["seed"] for r in runs],
        "not_finite": sum(f.startswith("not finite") for f in failures),
        "empty": sum(f.startswith("empty") for f in failures),
        "damaged": sum(f.startswith("pruning") for f in failures),
        "gap_points": summary(gaps),
        "mean_error_percent": summary([r["mean_error_percent"] for r in runs]),
        "pruned_error_percent": summary([r["pruned_error_percent"] for r in runs]),
        "renewed_error_percent": summary([r["renewed_error_percent"] for r in runs]),
        "test_error_percent": summary([r["test_error_percent"] for r in runs]),
        "weights_left_percent": summary([r["weights_left_percent"] for r in runs]),
        "seconds": summary([r["seconds"] for r in runs]),
    }


def result(runs: list[Run]) -> dict[str, Any]:
    """The file's content: a row for every net, and all runs."""
    by_net = {name: [r for r in runs if r["net"] == name] for name in NETS}
    return {
        "case": "Seeds of three small nets with default settings",
        "protocol": " ".join(__doc__.split("\n\n")[-1].split()),
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
        "readme": False,
        "rows": [row_of(name, found) for name, found in by_net.items() if found],
        "runs": runs,
    }


def main() -> None:
    """Make the runs that are missing, one by one; write the JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=NETS, default=list(NETS), help="these nets")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many seeds, from 0 on")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the data")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    arguments = parser.parse_args()
    out: Path = arguments.out
    runs: list[Run] = json.loads(out.read_text(encoding="utf-8"))["runs"] if out.exists() else []
    done = {(r["net"], r["seed"]) for r in runs}
    for seed in range(arguments.seeds):  # all nets in turn: what is there early tells of each
        for name in arguments.only:
            if (name, seed) in done:
                continue
            new = run(name, seed, arguments.epochs)
            print(*new.values(), sep="  ", flush=True)
            runs.append(new)
            runs.sort(key=lambda r: (list(NETS).index(r["net"]), r["seed"]))
            write_json(out, result(runs))
    for row in result(runs)["rows"]:
        print(row)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
