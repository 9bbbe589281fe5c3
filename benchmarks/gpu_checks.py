"""Does everything that trains, infers and cuts work on this GPU, and how fast are messages there?

    python benchmarks/gpu_checks.py                     all checks on the GPU -> JSON, one line each
    python benchmarks/gpu_checks.py --only messages     checks whose name contains a word
    python benchmarks/gpu_checks.py --device cpu        on the CPU, to try the script itself
    python benchmarks/gpu_checks.py --out FILE          where the JSON goes

A check that fails prints its traceback, and the next one goes on; the exit status is the number of
those that failed. Nets are trained on scikit-learn's digits, on the device and on the CPU with the
same settings and other random numbers: test errors must agree within five points. The speed of
messages is that of copying the log-likelihood ratios over that of one posterior: 1 would be the
speed of memory.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import data, engines, likelihoods, priors, supports
from pyro_turbovbi.compression import FineTune
from pyro_turbovbi.engines.protocol import AnyEngine
from pyro_turbovbi.kernels import ChainLaw, backends, chain_posterior, grid_posterior

RESULTS = Path(__file__).parent / "results" / "gpu" / "checks.json"
#: 128 MiB of log-likelihood ratios, and what a rehearsal takes.
LARGE, SMALL = (8192, 4096), (512, 512)
#: By how many percentage points two trainings on 360 test images may differ.
CLOSE = 5.0
Figures = dict[str, Any]


def require(holds: bool, what: str) -> None:
    """Fails the present check."""
    if not holds:
        raise AssertionError(what)


# --- message passing ------------------------------------------------------------------------------


def messages_agree(device: torch.device) -> Figures:
    """Every back end of the device against the reference, in double precision."""
    laws = [ChainLaw.stationary(0.05, 5.0), ChainLaw(0.95, 0.9), ChainLaw(1e-8, 1e-8)]
    worst = dict.fromkeys(backends.backend_names(torch.zeros(1, device=device)), 0.0)
    for shape, dim in (
        ((3, 1), 1),
        ((300, 785), 1),
        ((300, 785), 0),
        ((2, 3000), 1),
        ((7, 5, 33), 1),
    ):
        llr = 3.0 * torch.randn(shape, dtype=torch.float64, device=device) - 1.0
        for law in laws:
            exact = _chain(llr, law, dim, "torch")
            for name in worst:
                found = _chain(llr, law, dim, name)
                errors = [
                    float(((a - b).abs() / (1.0 + b.abs())).max())
                    for a, b in zip(found, exact, strict=True)
                ]
                worst[name] = max(worst[name], *errors)
    require(max(worst.values()) < 1e-9, f"back ends differ: {worst}")
    return {"largest_difference": worst}


def _chain(
    llr: Tensor, law: ChainLaw, dim: int, backend: backends.BackendName
) -> tuple[Tensor, ...]:
    found = chain_posterior(llr, law, dim=dim, pairwise=True, log_evidence=True, backend=backend)
    assert found.log_evidence is not None
    assert found.transitions is not None
    return found.extrinsic, found.log_evidence, found.transitions


def messages_speed(device: torch.device) -> Figures:
    """Messages over many weights at the speed of memory."""
    shape = LARGE if device.type == "cuda" else SMALL
    llr = 3.0 * torch.randn(shape, device=device) - 1.0
    target, law = torch.empty_like(llr), ChainLaw.stationary(0.05, 5.0)
    full: dict[str, Any] = {"pairwise": True, "log_evidence": True}
    cases: dict[str, Callable[[], object]] = {
        "copy": lambda: target.copy_(llr),
        "row chains": lambda: chain_posterior(llr, law, dim=1, out=target),
        "column chains": lambda: chain_posterior(llr, law, dim=0, out=target),
        "row chains, full": lambda: chain_posterior(llr, law, dim=1, out=target, **full),
        "grid sweep": lambda: grid_posterior(llr, law, law, sweeps=1),
    }
    seconds = {name: timed(run, device) for name, run in cases.items()}
    copy = seconds["copy"]
    bytes_moved = 2 * llr.numel() * llr.element_size()
    return {
        "elements": llr.numel(),
        "copy_GB_a_second": round(bytes_moved / copy / 1e9, 1),
        "share_of_copy": {n: round(copy / s, 3) for n, s in seconds.items() if n != "copy"},
        "ns_per_variable": {n: round(1e9 * s / llr.numel(), 4) for n, s in seconds.items()},
    }


def timed(run: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    """The least seconds of several runs, after two that are not counted."""
    seconds = []
    for _ in range(repeats + 2):
        wait(device)
        started = time.perf_counter()
        run()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[2:])


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- training -------------------------------------------------------------------------------------


def mlp() -> nn.Sequential:
    """64-64-32-10."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )


def lenet_5() -> nn.Sequential:
    """LeNet-5-Caffe, for images of 28x28 pixels."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


class Residual(nn.Module):
    """A residual block between two convolutions, with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.inner_norm = nn.BatchNorm2d(16)
        self.last = nn.Linear(16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images [batch, 1, 8, 8]."""
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(x + self.inner_norm(self.inner(x)))
        return self.last(nn.functional.max_pool2d(x, 2).flatten(1))  # type: ignore[no-any-return]


CHAIN = priors.ThreeLayer(support=supports.Chain(0.2, mean_run=5.0))
GRID = priors.ThreeLayer(support=supports.Grid(0.2, mean_run=(5.0, 5.0)))
SHARED = priors.ThreeLayer(support=supports.Chain(0.2, mean_run=5.0), gates="shared")
NORMAL = priors.Normal(scale=0.3)
RESTRUCTURED = engines.Turbo(compact_every=5, reorder_every=7)


@dataclass(frozen=True)
class Case:
    """A training whose result must not depend on the device.

    Attributes:
        pixels: Side of the images that the net takes; None: vectors.
    """

    net: Callable[[], nn.Module]
    prior: priors.Prior
    engine: AnyEngine
    epochs: int = 20
    autocast: torch.dtype | None = None
    pixels: int | None = None


CASES = {
    "mlp, chain": Case(mlp, CHAIN, engines.Turbo()),
    "mlp, grid": Case(mlp, GRID, engines.Turbo()),
    "mlp, shared gates": Case(mlp, SHARED, engines.Turbo()),
    "mlp, chain, learned": Case(mlp, CHAIN, engines.Turbo(learn_hyper=True)),
    "mlp, chain, compacted and re-ordered": Case(mlp, CHAIN, RESTRUCTURED),
    "mlp, shared gates, compacted and re-ordered": Case(mlp, SHARED, RESTRUCTURED),
    "mlp, chain, bfloat16": Case(mlp, CHAIN, engines.Turbo(), autocast=torch.bfloat16),
    "lenet-5, chain": Case(lenet_5, CHAIN, engines.Turbo(kl_weight=0.05), epochs=8, pixels=28),
    "lenet-5, chain, compacted, bfloat16": Case(
        lenet_5, CHAIN, engines.Turbo(kl_weight=0.05, compact_every=2), 8, torch.bfloat16, 28
    ),
    "residual, chain": Case(Residual, CHAIN, engines.Turbo(), pixels=8),
    "residual, shared gates": Case(Residual, SHARED, engines.Turbo(), pixels=8),
    "mlp, svi": Case(mlp, NORMAL, engines.SVI(lr=0.01)),
    "mlp, svi, collapsed": Case(mlp, priors.ThreeLayer(collapse=True), engines.SVI(lr=0.01)),
    "mlp, map": Case(mlp, NORMAL, engines.MAP(lr=0.01)),
}


def training(case: Case, device: torch.device) -> Figures:
    """Train, predict, cut, save and load on the device; compare with the CPU."""
    splits = digits(case.pixels)
    fits = {place: _fit(case, splits.train, place) for place in {device, torch.device("cpu")}}
    errors = {place.type: _error_percent(fit, splits.test) for place, fit in fits.items()}
    fit = fits[device]
    require(all(math.isfinite(record.loss) for record in fit.history), "the loss is not finite")
    require(max(errors.values()) - min(errors.values()) <= CLOSE, f"errors differ: {errors}")
    places = {value.device.type for value in fit.posterior.mean().values()}
    require(places == {device.type}, f"the posterior lies on {places}")
    figures: Figures = {"error_percent": {k: round(v, 2) for k, v in errors.items()}}
    figures["seconds"] = {place.type: round(f.seconds, 2) for place, f in fits.items()}
    keep = None if case.prior.__class__ is priors.ThreeLayer else 0.3
    return figures | _cut(fit, splits, keep)


def digits(pixels: int | None) -> data.Splits:
    """Scikit-learn's digits as vectors, or as images of a size."""
    splits = data.digits(seed=0)
    if pixels is None:
        return splits
    train, validation, test = (
        data.TensorPair(nn.functional.interpolate(x.view(-1, 1, 8, 8), size=pixels), y)
        for x, y in splits
    )
    return data.Splits(train, validation, test)


def _error_percent(fit: ptv.Fit, test: data.TensorPair) -> float:
    error = fit.evaluate(test, num_samples=8).error
    assert error is not None
    return 100.0 * error


def _fit(case: Case, train: data.TensorPair, device: torch.device) -> ptv.Fit:
    torch.manual_seed(0)
    bnn = ptv.lift(case.net(), likelihood=likelihoods.Categorical(), prior=case.prior)
    return ptv.fit(
        bnn,
        train,
        engine=case.engine,
        epochs=case.epochs,
        batch_size=64,
        device=device,
        autocast=case.autocast,
        progress=False,
    )


def _cut(fit: ptv.Fit, splits: data.Splits, keep: float | None) -> Figures:
    """Compress, save, load: the file must give what the module on the device gives."""
    small = fit.compress(splits.train, keep=keep)
    device = next(iter(fit.posterior.mean().values())).device
    x = splits.test.x.to(device)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "net.ptv"
        small.save(path)
        own = None if isinstance(fit.bnn.net, nn.Sequential) else type(fit.bnn.net)()
        loaded = ptv.load(path, own)
        expected, found = small.module(x).cpu(), loaded(splits.test.x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    return {
        "weights_left_percent": round(100.0 * small.report.weights_left, 2),
        "structure": str(small.report.structure),
    }


# --- further checks -------------------------------------------------------------------------------


def exact_weights(device: torch.device) -> Figures:
    """The linear-Gaussian form."""
    problem = data.recovery(100, weights=200, clusters=2)
    x, y = problem.x, problem.y
    likelihood = likelihoods.Gaussian(scale=0.02, learn=False)
    bnn = ptv.lift(nn.Linear(200, 1, bias=False), likelihood=likelihood, prior=CHAIN)
    engine = engines.Turbo(weights="exact")
    elbos = [
        ptv.fit(bnn, (x, y), engine=engine, epochs=20, device=place, progress=False).elbo
        for place in (device, "cpu")
    ]
    found, expected = (float(elbo) for elbo in elbos if elbo is not None)
    require(abs(found - expected) <= 1e-3 * abs(expected), f"ELBOs differ: {elbos}")
    return {"elbo": found}


def rounding(device: torch.device) -> Figures:
    """Quantisation of a cut network."""
    splits = data.digits(seed=0)
    small = _fit(CASES["mlp, chain"], splits.train, device).compress(splits.train)
    rounded = small.quantise(splits.validation, tolerance=0.05)
    return {"bytes": [small.report.bytes, rounded.report.bytes]}


def fine_tuning(device: torch.device) -> Figures:
    """Further training of a cut network, on the device and never worse."""
    splits = data.digits(seed=0)
    fit = _fit(CASES["mlp, chain"], splits.train, device)
    how = FineTune(epochs=10, pull=0.01, distil=0.5)
    small = fit.compress(splits.train, fine_tune=how, validation=splits.validation)
    record = small.report.fine_tuning
    assert record is not None
    require(record.loss_after <= record.loss_before, f"it got worse: {record.losses}")
    parameters = small.module.parameters()
    require({p.device.type for p in parameters} == {device.type}, "weights left the device")
    return {"validation_nll": [record.loss_before, record.loss_after], "best": record.best}


def views(device: torch.device) -> Figures:
    """Random views of images, drawn on the device."""
    x = torch.randn(512, 3, 32, 32, device=device)
    require(data.augment(x).device == x.device, "views left the device")
    return {"milliseconds_of_512_images": round(1e3 * timed(lambda: data.augment(x), device), 3)}


def waiting(device: torch.device) -> Figures:
    """How often the CPU waits for the device in a step of Turbo-VBI, and what a step takes."""
    torch.manual_seed(0)
    bnn = ptv.lift(lenet_5(), likelihood=likelihoods.Categorical(), prior=CHAIN).to(device)
    turbo = ptv.TurboVBI(bnn, num_steps=100_000)
    x, y = torch.randn(64, 1, 28, 28, device=device), torch.arange(64, device=device) % 10
    for _ in range(5):
        turbo.step(x, y)
    return {
        "waits_a_step": None if device.type == "cpu" else _waits(lambda: turbo.step(x, y)),
        "milliseconds_a_step": round(1e3 * timed(lambda: turbo.step(x, y), device), 3),
    }


#: What may compile a net's training steps.
COMPILERS: dict[str, Callable[..., Any] | None] = {
    "plain": None,
    "compiled": torch.compile,
    "CUDA graphs": functools.partial(torch.compile, mode="reduce-overhead"),
}
#: How far losses of two epochs may be from each other, as shares, where arithmetic is ordered
#: differently.
LOOSELY = 0.02


def compiling(device: torch.device) -> Figures:
    """Compiled training steps: the same losses, and what a step takes."""
    splits, losses, milliseconds = digits(28), {}, {}
    x, y = (part[:64].to(device) for part in splits.train)
    for name, compiler in COMPILERS.items():
        torch.manual_seed(0)
        bnn = ptv.lift(lenet_5(), likelihood=likelihoods.Categorical(), prior=CHAIN)
        losses[name] = _first_losses(bnn, splits.train, compiler, device)
        turbo = ptv.TurboVBI(bnn.to(device).train(), num_steps=100_000)
        turbo.setup(x, y)
        bnn.compiler = compiler
        milliseconds[name] = round(1e3 * timed(functools.partial(turbo.step, x, y), device), 3)
    for name, found in losses.items():
        expected = torch.tensor(losses["plain"])
        torch.testing.assert_close(torch.tensor(found), expected, rtol=LOOSELY, atol=0.0)
        require(all(map(math.isfinite, found)), f"the loss is not finite: {name}")
    return {"losses": losses, "milliseconds_a_step": milliseconds}


def _first_losses(
    bnn: ptv.BayesianNet,
    train: data.TensorPair,
    compiler: Callable[..., Any] | None,
    device: torch.device,
) -> list[float]:
    fit = ptv.fit(
        bnn, train, epochs=2, batch_size=64, device=device, compile=compiler, progress=False
    )
    return [record.loss for record in fit.history]


def _waits(run: Callable[[], object]) -> int:
    """Number of synchronisations that torch reports."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


CHECKS: dict[str, Callable[[torch.device], Figures]] = {
    "messages agree": messages_agree,
    "messages, speed": messages_speed,
    "views of images": views,
    "waiting for the device": waiting,
    "compiled steps": compiling,
    **{name: functools.partial(training, case) for name, case in CASES.items()},
    "exact weights": exact_weights,
    "rounding": rounding,
    "fine-tuning": fine_tuning,
}


def run_check(check: Callable[[torch.device], Figures], device: torch.device) -> Figures:
    """The figures of a check, or its error; with its warnings and the time that it took."""
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result: Figures = {"passed": True, **check(device)}
        except Exception as error:
            traceback.print_exc(file=sys.stdout)
            result = {"passed": False, "error": f"{type(error).__name__}: {error}"}
    messages = sorted({str(warning.message).splitlines()[0] for warning in caught})
    return result | {"warnings": messages, "wall_seconds": round(time.perf_counter() - started, 2)}


def main() -> int:
    """Run the checks; the number that failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="", help="a part of the names of the checks to run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    results = {}
    for check, function in CHECKS.items():
        if arguments.only in check:
            results[check] = run_check(function, device)
            verdict = "ok    " if results[check]["passed"] else "FAILED"
            print(f"{verdict} {check}: {json.dumps(results[check])}", flush=True)
            outcome = {"device": name, "torch": torch.__version__, "checks": results}
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
    failed = [check for check, result in results.items() if not result["passed"]]
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
