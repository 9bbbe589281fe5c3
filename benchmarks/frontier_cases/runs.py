"""Runs: trained once, kept with their recipe, measured, kept again."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.common import stored, write_json
from benchmarks.frontier_cases import cases
from benchmarks.frontier_cases.cases import CASES, Stage
from benchmarks.frontier_cases.measure import QUANTISED_ON, TOLERANCE, measured
from benchmarks.frontier_cases.methods import method_of
from benchmarks.frontier_cases.teachers import taught
from benchmarks.frontier_cases.training import Task, Trained
from pyro_turbovbi.data import TensorPair
from pyro_turbovbi.training import start_digest

RESULTS = Path(__file__).parents[1] / "results" / "frontier"


@dataclass(frozen=True)
class Run:
    """One training: a row of a table is three of them.

    Attributes:
        case: Name in `CASES`.
        method: Name of the method; in tuning, "method: candidate".
        seed: Seed of everything random.
        stage: Final, or tuning on a validation split.
        epochs: In the place of the case's epochs.
        device: Where to train; measurements are made on the CPU.
    """

    case: str
    method: str
    seed: int = 0
    stage: Stage = "final"
    epochs: int | None = None
    device: str = "cpu"

    def recipe(self) -> dict[str, Any]:
        """Everything that the result depends on, as JSON."""
        case = CASES[self.case]
        recipe = {
            "case": self.case,
            "stage": self.stage,
            "epochs": [case.pretraining, self.epochs or case.epochs],
            "batch": case.batch,
            "seed": self.seed,
            "settings": method_of(self.case, self.method).described(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(recipe))
        return plain

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        tuning = "tuning/" if self.stage == "tuning" else ""
        short = "" if self.epochs is None else f"-{self.epochs}_epochs"
        return f"{self.case}/{tuning}{slug(self.method)}{short}-{self.seed}"

    @property
    def path(self) -> Path:
        """Where the figures are kept."""
        return RESULTS / f"{self.name}.json"

    @property
    def cache(self) -> Path:
        """Where the trained network is kept."""
        return cases.CACHE / f"{self.name}.safetensors"


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_")


def trained(case: str, method: str, seed: int, **settings: Any) -> Trained:
    """The trained network of a run, from the cache or trained now.

    Args:
        case: Name of the case.
        method: Name of the method.
        seed: Seed.
        **settings: Further fields of `Run`.
    """
    return _trained(Run(case, method, seed, **settings))[0]


def kept(run: Run) -> Trained | None:
    """The trained network of a run, from the cache alone: nothing is trained.

    Args:
        run: The run.

    Returns:
        The network; None if none is kept that was trained with the run's recipe.
    """
    there = _kept(run)
    return None if there is None else there[0]


def result_of(run: Run, *, again: bool = False) -> dict[str, Any]:
    """The figures of a run: kept ones if they were made with its recipe, otherwise new ones.

    Args:
        run: The run.
        again: Whether to measure a kept network anew.
    """
    known = None if again else stored(run.path, measured_recipe(run))
    if known is not None:
        return known
    result, circumstances = _trained(run)
    train, held_out = cases.parts(run.case, run.stage)
    figures = measured(result, train, held_out)
    found = {
        "recipe": measured_recipe(run),
        "method": run.method,
        **figures,
        **circumstances,
    }
    write_json(run.path, found)
    return found


def measured_recipe(run: Run) -> dict[str, Any]:
    """The recipe of a training and of the measurement."""
    return run.recipe() | {"quantised": {"tolerance": TOLERANCE, "points": QUANTISED_ON}}


def environment(device: str) -> dict[str, Any]:
    """Where a training ran."""
    cuda = device.startswith("cuda")
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if cuda else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "commit": _commit(),
    }


def _commit() -> str | None:
    command = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(command, cwd=RESULTS.parents[2], capture_output=True, text=True)
    return done.stdout.strip() or None


def _trained(run: Run) -> tuple[Trained, dict[str, Any]]:
    """The trained network, and how long it took where."""
    there = _kept(run)
    if there is not None:
        return there
    result, circumstances = _train(run)
    tensors = {f"mean/{n}": t for n, t in result.net.state_dict().items()}
    tensors |= {f"mask/{n}": t for n, t in result.masks.items()}
    tensors |= {f"scale/{n}": t for n, t in result.scales.items()}
    metadata = {
        "recipe": json.dumps(run.recipe()),
        "notes": json.dumps(result.notes),
        "circumstances": json.dumps(circumstances),
    }
    run.cache.parent.mkdir(parents=True, exist_ok=True)
    part = run.cache.with_suffix(".part")
    save_file({n: t.contiguous() for n, t in tensors.items()}, part, metadata)
    part.replace(run.cache)
    return result, circumstances


def _kept(run: Run) -> tuple[Trained, dict[str, Any]] | None:
    """The network that is kept; None if there is none that was trained with this recipe."""
    if not run.cache.exists():
        return None
    with safe_open(run.cache, "pt") as file:
        metadata = file.metadata()
        if json.loads(metadata["recipe"]) != run.recipe():
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    notes = json.loads(metadata["notes"])
    return _loaded(run, tensors, notes), json.loads(metadata["circumstances"])


def _loaded(run: Run, tensors: Mapping[str, torch.Tensor], notes: dict[str, Any]) -> Trained:
    def under(prefix: str) -> dict[str, torch.Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    net = CASES[run.case].build()
    net.load_state_dict(under("mean/"))
    return replace(Trained.of(net, under("mask/"), under("scale/")), notes=notes)


def _train(run: Run) -> tuple[Trained, dict[str, Any]]:
    case, device = CASES[run.case], torch.device(run.device)
    net = cases.pretrained(run.case, run.seed, run.stage)
    digest = start_digest(net)
    data, _ = cases.parts(run.case, run.stage)
    on_device = TensorPair(*(t.to(device) for t in data))
    task = Task(net.to(device), on_device, run.epochs or case.epochs, case.batch, run.seed, device)
    method = method_of(run.case, run.method)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Teachers are trained before the clock starts: methods share them, and note their seconds.
        taught(task, getattr(method, "teachers", 0))
        torch.manual_seed(run.seed)
        wall, cpu = time.perf_counter(), time.process_time()
        result = method.train(task)
        seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return result, {**seconds, "start": digest, "environment": environment(run.device)}
