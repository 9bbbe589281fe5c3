"""A regression in which five of fifty inputs matter: which inputs does the fitted net still read?

    python benchmarks/relevant_inputs.py      ten seeds of every row -> JSON, table

y = sin(2 a) + b c + |d| + e of five of fifty standard normal inputs, noise 0.1, standardised;
1,000 points; one hidden layer of 50 units with learned noise, 150 epochs of Turbo-VBI with default
settings. An input is read where it has an active weight to a hidden unit that has an active weight
to the output. Medians of ten seeds, in brackets the smallest and the largest.
"""

from __future__ import annotations

import json
import platform
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports

RESULTS = Path(__file__).parent / "results" / "relevant_inputs.json"
SEEDS = tuple(range(10))
POINTS, INPUTS, HIDDEN, EPOCHS = 1000, 50, 50, 150
Row = dict[str, Any]


class Problem(NamedTuple):
    """Inputs `[points, inputs]`, targets `[points]`, and which inputs matter `[inputs]`."""

    x: Tensor
    y: Tensor
    relevant: Tensor


def problem(seed: int) -> Problem:
    """One random problem."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(POINTS, INPUTS, generator=generator)
    chosen = torch.randperm(INPUTS, generator=generator)[:5]
    a, b, c, d, e = x[:, chosen].T
    y = torch.sin(2 * a) + b * c + d.abs() + e + 0.1 * torch.randn(POINTS, generator=generator)
    relevant = torch.zeros(INPUTS, dtype=torch.bool)
    relevant[chosen] = True
    return Problem(x, (y - y.mean()) / y.std(), relevant)


def inputs_read(
    task: Problem, prior: priors.ThreeLayer, engine: engines.Turbo, seed: int
) -> Tensor:
    """Which inputs the fitted net reads `[inputs]`, boolean."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(), prior=prior)
    fit = ptv.fit(bnn, task[:2], engine=engine, epochs=EPOCHS, seed=seed, progress=False)
    masks = fit.masks()
    return masks["0.weight"][masks["2.weight"].any(0)].any(0)


def row_of(method: str, prior: priors.ThreeLayer, engine: engines.Turbo) -> Row:
    """Inputs found and inputs read in vain, over seeds."""
    found, vain = [], []
    for seed in SEEDS:
        task = problem(seed)
        read = inputs_read(task, prior, engine, seed)
        found.append(int((read & task.relevant).sum()))
        vain.append(int((read & ~task.relevant).sum()))
    return {
        "method": method,
        "seeds": list(SEEDS),
        "relevant_found": summary(found),
        "read_in_vain": summary(vain),
        "exactly_right": sum(f == 5 and v == 0 for f, v in zip(found, vain, strict=True)),
    }


def summary(values: list[int]) -> dict[str, float]:
    """Median and range over seeds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    """Run all rows, print them, write the JSON."""
    default, gated = priors.ThreeLayer(), priors.ThreeLayer(support=supports.Gated(gate_dim=1))
    independent = priors.ThreeLayer(support=supports.Independent(0.05))
    rows = [
        row_of("Turbo, defaults (row chains)", default, engines.Turbo()),
        row_of("Turbo, independent support", independent, engines.Turbo()),
        row_of("Turbo, a gate per input", gated, engines.Turbo()),
        row_of("Turbo, row chains, KL weight 0.2", default, engines.Turbo(kl_weight=0.2)),
    ]
    print(*rows, sep="\n")
    result = {
        "case": "Regression in which five of fifty inputs matter",
        "protocol": " ".join(__doc__.split("\n\n")[-1].split()),
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
        "readme": False,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
