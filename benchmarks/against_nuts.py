"""Turbo-VBI and stock SVI on one prior, held against NUTS on small problems.

    python benchmarks/against_nuts.py            every problem, method and seed -> JSON, table
    python benchmarks/against_nuts.py --fresh    forget the stored runs first

Runs are kept one by one in ``results/against_nuts/``: an interrupted benchmark goes on where it
stopped.

40 weights in one layer, 100 data points, a chain support prior: small enough for NUTS on the
collapsed prior to be the reference. Two likelihoods: real targets with known noise (every method
could be exact there but for its posterior family) and binary targets.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.families import EnumeratedGuide, RelaxedGuide, TurboGuide
from pyro_turbovbi.likelihoods import Likelihood

RESULTS = Path(__file__).parent / "results"
RUNS = RESULTS / "against_nuts"
SEEDS = (0, 1, 2)
WEIGHTS, POINTS, TEST_POINTS = 40, 100, 2000
CLUSTERS = ((5, 10), (22, 28))
NOISE = 1.0
SUPPORT = supports.Chain(density=0.25, mean_run=5.0)
#: Slab scale 1, spike scale 0.15: wide enough for NUTS to cross between them. At a spike scale of
#: 0.05 it does not on the binary targets, and is no reference there.
SLAB, SPIKE = (2.0, 2.0), (4.0, 4 * 0.15**2)
STEPS, DRAWS = 2500, 1000
NUTS = engines.NUTS(num_samples=2000, warmup=500, num_chains=2)
DIAGONAL = engines.Turbo(
    kl_weight=1.0,
    kl_warmup=0.0,
    lr=1e-2,
    init_scale=0.3,
    messages_every=20,
    refresh_every=1,
    reduction=engines.ModelReduction(strength=0.0),  # what is compared is the bound's own optimum
)
EXACT = engines.Turbo(weights="exact", kl_weight=1.0, damping=0.0)


@dataclass(frozen=True)
class Problem:
    """One data set and the likelihood that it was drawn from."""

    likelihood: Callable[[], Likelihood]
    x: Tensor
    y: Tensor
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Method:
    """An engine, and the form of the prior that it takes."""

    engine: engines.Engine[Any]
    collapse: bool | Literal["support"]
    epochs: int


METHODS = {
    "Turbo, diagonal q(w)": Method(DIAGONAL, False, STEPS),
    "Turbo, exact q(w)": Method(EXACT, False, 200),
    "SVI, AutoNormal": Method(engines.SVI("auto_normal", lr=5e-3), True, STEPS),
    "SVI, AutoLowRankMultivariateNormal": Method(
        engines.SVI("auto_low_rank_multivariate_normal", lr=5e-3), True, STEPS
    ),
    "SVI, score-function supports": Method(
        engines.SVI(lambda bnn: TurboGuide(bnn.sites), lr=5e-3), False, STEPS
    ),
    "SVI, straight-through supports": Method(
        engines.SVI(lambda bnn: RelaxedGuide(bnn.sites), lr=5e-3), False, STEPS
    ),
    "SVI, supports summed out": Method(
        engines.SVI(lambda bnn: EnumeratedGuide(bnn.sites), lr=5e-3), "support", STEPS
    ),
}
REFERENCE = Method(NUTS, True, 20)


def regression(seed: int) -> Problem:
    """Real targets, noise 1, correlated inputs."""
    x, output = _inputs_and_outputs(seed)
    y = output + NOISE * torch.randn(len(output), 1)
    return Problem(
        lambda: likelihoods.Gaussian(NOISE, learn=False),
        x[:POINTS], y[:POINTS], (x[POINTS:], y[POINTS:]),
    )  # fmt: skip


def classification(seed: int) -> Problem:
    """Binary targets."""
    x, output = _inputs_and_outputs(seed)
    y = torch.bernoulli(output.sigmoid())
    return Problem(likelihoods.Bernoulli, x[:POINTS], y[:POINTS], (x[POINTS:], y[POINTS:]))


PROBLEMS = {"regression": regression, "classification": classification}


def _inputs_and_outputs(seed: int) -> tuple[Tensor, Tensor]:
    """Inputs with correlation 0.5 between neighbours; weights in two clusters of sizes 0.3 - 1."""
    torch.manual_seed(seed)
    white = torch.randn(POINTS + TEST_POINTS, WEIGHTS)
    columns = [white[:, 0]]
    for column in white.T[1:]:
        columns.append(0.5 * columns[-1] + 0.75**0.5 * column)
    x = torch.stack(columns, 1)
    weight = torch.zeros(WEIGHTS)
    for start, stop in CLUSTERS:
        size = 0.3 + 0.7 * torch.rand(stop - start)
        weight[start:stop] = size * torch.randn(stop - start).sign()
    return x, x @ weight[:, None]


def fit(problem: Problem, method: Method, seed: int) -> tuple[ptv.Fit, float]:
    """The fit and its wall seconds."""
    prior = priors.ThreeLayer(
        SUPPORT, dist.Gamma(*SLAB), dist.Gamma(*SPIKE), collapse=method.collapse
    )
    torch.manual_seed(seed)
    net = nn.Linear(WEIGHTS, 1, bias=False)
    bnn = ptv.lift(net, likelihood=problem.likelihood(), prior=prior)
    started = time.perf_counter()
    result = ptv.fit(
        bnn,
        (problem.x, problem.y),
        engine=method.engine,
        epochs=method.epochs,
        batch_size=POINTS,
        seed=seed,
        progress=False,
    )
    return result, time.perf_counter() - started


def summary(result: ptv.Fit, problem: Problem) -> dict[str, Tensor]:
    """P(s = 1), posterior means and the predictive negative log-likelihood of a fit."""
    torch.manual_seed(0)
    x, y = problem.test
    nll = -result.predict(x, num_samples=DRAWS).log_prob(y).mean()
    mean, probs = result.posterior.mean()["weight"], result.support_probs()["weight"]
    return {"probs": probs, "mean": mean, "nll": nll}


def differences(found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> dict[str, float]:
    """What the table shows of one fit beside the reference."""
    probs = (found["probs"] - true["probs"]).abs()
    return {
        "support_difference_max": float(probs.max()),
        "support_difference_mean": float(probs.mean()),
        "mean_difference_rms": float((found["mean"] - true["mean"]).square().mean().sqrt()),
        "predictive_nll": float(found["nll"]),
        "nll_ratio_to_nuts": float(found["nll"] / true["nll"]),
    }


def run(problem_name: str, seed: int) -> dict[str, dict[str, float]]:
    """All methods on one problem: figures by method."""
    problem = PROBLEMS[problem_name](seed)
    reference, seconds = fit(problem, REFERENCE, seed)
    assert isinstance(reference.posterior, engines.MCMCPosterior)
    diagnostics = reference.posterior.diagnostics
    true = summary(reference, problem)
    rows = {
        "NUTS": {
            "predictive_nll": float(true["nll"]),
            "max_r_hat": diagnostics.max_r_hat,
            "min_ess": diagnostics.min_ess,
            "divergences": float(sum(diagnostics.divergences)),
            "seconds": seconds,
        }
    }
    for name, method in METHODS.items():
        if method.engine is EXACT and problem_name != "regression":
            continue
        result, seconds = fit(problem, method, seed)
        rows[name] = differences(summary(result, problem), true) | {"seconds": seconds}
    return rows


def spread(values: list[float]) -> dict[str, float]:
    """Median and range over seeds."""
    return {
        key: round(function(values), 4)
        for key, function in (("median", statistics.median), ("min", min), ("max", max))
    }


def stored(problem: str, seed: int) -> dict[str, dict[str, float]]:
    """The run from its file, made first where there is none for these methods."""
    path = RUNS / f"{problem}-{seed}.json"
    if path.exists():
        found: dict[str, dict[str, float]] = json.loads(path.read_text(encoding="utf-8"))
        exact = {name for name, method in METHODS.items() if method.engine is EXACT}
        if found.keys() >= METHODS.keys() - exact:
            return found
    result = run(problem, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(problem, seed, json.dumps(result, indent=1), flush=True)
    return result


def main() -> None:
    """Run what is missing, write the JSON."""
    rows: list[dict[str, Any]] = []
    for problem in PROBLEMS:
        runs = [stored(problem, seed) for seed in SEEDS]
        for method in runs[0]:
            figures = {
                key: spread([figure[method][key] for figure in runs]) for key in runs[0][method]
            }
            rows.append({"method": method, "problem": problem, "seeds": list(SEEDS)} | figures)
    result = {
        "case": "Turbo-VBI and stock SVI against NUTS",
        "readme": False,
        "protocol": f"One layer of {WEIGHTS} weights, {POINTS} data points, inputs with "
        "correlation 0.5 between neighbours, true weights in two clusters; three-layer prior with "
        f"a chain support (density {SUPPORT.density}, mean run {SUPPORT.mean_run}), slab scale 1, "
        "spike scale 0.15 (with 0.05 NUTS does not mix on the binary targets), the collapsed "
        "form of it for NUTS and the autoguides, the one without supports for the guide with "
        "supports summed out. Reference: NUTS, "
        f"{NUTS.num_chains} chains of {NUTS.num_samples} draws after {NUTS.warmup} of warm-up. "
        f"{STEPS} full-batch steps for SVI and for Turbo with diagonal q(w), KL weight 1. "
        f"Predictive NLL in nats a point on {TEST_POINTS} test points from {DRAWS} draws. "
        "Median and range of the seeds, each another data set; times are those of a machine with "
        "other work to do",
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
        "rows": rows,
    }
    (RESULTS / "against_nuts.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="forget the stored runs first")
    if parser.parse_args().fresh:
        for old in RUNS.glob("*.json"):
            old.unlink()
    torch.set_num_threads(1)
    main()
