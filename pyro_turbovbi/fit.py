"""`fit`: the one training loop, for every engine."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from pyro_turbovbi._pyro import buffers_kept
from pyro_turbovbi.batches import Batch, Batches, Data, as_batches, as_tensors, to_device
from pyro_turbovbi.checks import check_data
from pyro_turbovbi.engines.protocol import AnyEngine, Engine, Plan
from pyro_turbovbi.engines.turbo import Turbo
from pyro_turbovbi.errors import InvalidArgumentError, SiteError
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.priors.base import Prior
from pyro_turbovbi.priors.selection import BySite
from pyro_turbovbi.result import EpochRecord, Fit, History, support_probs
from pyro_turbovbi.training import DataDigest, Training, start_digest

Snapshot = Callable[[], Fit]
Callback = Callable[[EpochRecord, Snapshot], None]


def fit(
    bnn: BayesianNet,
    data: Data,
    *,
    engine: AnyEngine | None = None,
    epochs: int = 20,
    seed: int = 0,
    batch_size: int = 128,
    callbacks: Sequence[Callback] = (),
    device: torch.device | str | None = None,
    autocast: torch.dtype | None = None,
    progress: bool = True,
) -> Fit:
    """Fit a lifted net.

    Args:
        bnn: From `ptv.lift`; it is copied and not changed.
        data: A `DataLoader`, a `Dataset`, or a pair of tensors; batches (x, y), or a dict with the
            key "y".
        engine: `engines.Turbo()` (default), `engines.SVI(...)`, `engines.MAP(...)`, or any
            `engines.Engine`.
        epochs: Passes over the data.
        seed: Seed of everything random; the caller's random state is left as it was.
        batch_size: Data points a step, for a `Dataset` or tensors.
        callbacks: Called after every epoch with its record and a function that gives a `Fit` of
            the present state.
        device: Where to train; default: a GPU if there is one.
        autocast: ``torch.bfloat16`` runs the net in mixed precision (`torch.autocast`), which is
            faster on a GPU; posterior, messages and losses stay in single precision, and so does
            the net of the result. Default: single precision throughout.
        progress: Show a progress bar.

    Returns:
        The `Fit`.

    Raises:
        InvalidArgumentError, InvalidDataError, ShapeError: before any training, if something does
            not fit.
        UnsupportedError: if the engine cannot handle the model.
        NumericalError: if the loss stops being finite.
    """
    engine = engine if engine is not None else Turbo()
    _check_arguments(bnn, engine, epochs)
    _check_autocast(autocast)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = copy.deepcopy(bnn).to(place)
    model.autocast = autocast
    if engine.full_batch:
        batches = as_batches(as_tensors(data), batch_size=_FULL, shuffle=False)
    else:
        batches = as_batches(data, batch_size=batch_size, shuffle=True)
    devices = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return _Run(model, batches, engine, epochs, place, seed).train(callbacks, progress)


def fit_all(
    plan: Mapping[str, tuple[Prior | BySite, AnyEngine]],
    bnn: BayesianNet,
    data: Data,
    *,
    epochs: int = 20,
    seed: int = 0,
    batch_size: int = 128,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> dict[str, Fit]:
    """Fit one net under several priors and engines, everything else being equal.

    Args:
        plan: Pairs (prior, engine) by the name that the fit gets.
        bnn: From `ptv.lift`; its own prior does not count, its weights are where all fits start.
        data: See `fit`, as all that follow.
        epochs: Passes over the data.
        seed: Seed of everything random, the order of the data among it.
        batch_size: Data points a step; engines that need all data at once get all.
        device: Where to train.
        progress: Show a progress bar.

    Returns:
        The fits by name, ready for `ptv.compare`.

    Raises:
        InvalidArgumentError, InvalidDataError, ShapeError, UnsupportedError, NumericalError: as
            `fit`.
        SiteError: before any training, if a prior matches no parameter of the net.
    """
    models = {name: bnn.with_prior(prior) for name, (prior, _) in plan.items()}
    for name, (_, engine) in plan.items():
        _check_arguments(models[name], engine, epochs)
    return {
        name: fit(
            models[name],
            data,
            engine=engine,
            epochs=epochs,
            seed=seed,
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
        for name, (_, engine) in plan.items()
    }


#: More data points than any data set has: one batch.
_FULL = 2**62


class _Run:
    """One training: the state that the loop needs."""

    def __init__(
        self,
        bnn: BayesianNet,
        batches: Batches,
        engine: AnyEngine,
        epochs: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self.bnn, self.batches, self.engine, self.device = bnn, batches, engine, device
        self.epochs = epochs
        bnn.num_data = batches.num_data
        data, start = DataDigest(), start_digest(bnn.net)
        example = check_data(bnn, data.reading(batches), device)
        self.training = Training(
            epochs=0,
            batch_size=len(example.y),
            num_data=batches.num_data,
            seed=seed,
            data=data.value,
            start=start,
            kl_weight=_kl_weight(engine, bnn),
        )
        self.history = History()
        self.started = time.perf_counter()
        plan = Plan(batches.num_data, epochs * len(batches), example)
        with buffers_kept(bnn):
            self.state = engine.init(bnn.train(), plan)

    def train(self, callbacks: Sequence[Callback], progress: bool) -> Fit:
        bar = tqdm(
            total=self.epochs * len(self.batches), disable=not progress, unit="step", leave=False
        )
        with bar:
            for epoch in range(1, self.epochs + 1):
                record = self._epoch(epoch, bar)
                self.history.append(record)
                for callback in callbacks:
                    callback(record, self._snapshot)
                    self.bnn.train()
        seconds = time.perf_counter() - self.started
        self.engine.finish(self.state)
        return self._result(seconds, self._final_elbo())

    def _epoch(self, epoch: int, bar: Any) -> EpochRecord:
        total, rows = 0.0, 0
        bar.set_description(f"{self.engine.name} {epoch}/{self.epochs}")
        for batch in self.batches:
            total += self.engine.step(self.state, self._on_device(batch)) * len(batch.y)
            rows += len(batch.y)
            bar.update()
        density = {
            name: float((probs > 0.5).float().mean())
            for name, probs in support_probs(self.bnn, self.engine.posterior(self.state)).items()
        }
        loss = total / rows
        bar.set_postfix(elbo=f"{-loss:.4g}", left=f"{_share(density, self.bnn):.2%}")
        return EpochRecord(epoch, loss, time.perf_counter() - self.started, density)

    def _on_device(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        return Batch((to_device(batch.x, self.device), batch.y.to(self.device, non_blocking=True)))

    def _final_elbo(self) -> float | None:
        if self.engine.elbo_kind(self.state) == "log joint":
            return None
        self.bnn.eval()
        total, rows = 0.0, 0
        for batch in self.batches:
            loss = self.engine.evaluate(self.state, self._on_device(batch))
            total, rows = total + loss * len(batch.y), rows + len(batch.y)
        return -total / rows

    def _snapshot(self) -> Fit:
        return self._result(time.perf_counter() - self.started, None)

    def _result(self, seconds: float, elbo: float | None) -> Fit:
        bnn = copy.deepcopy(self.bnn).eval()
        bnn.autocast = None
        return Fit(
            bnn=bnn,
            posterior=self.engine.posterior(self.state),
            history=History(self.history),
            engine_name=self.engine.name,
            elbo=elbo,
            elbo_kind=self.engine.elbo_kind(self.state),
            seconds=seconds,
            training=replace(self.training, epochs=len(self.history)),
        )


def _check_arguments(bnn: object, engine: object, epochs: int) -> None:
    if not isinstance(bnn, BayesianNet):
        raise InvalidArgumentError(
            "fit needs a lifted net",
            given=type(bnn).__name__,
            accepted="ptv.lift(net, likelihood=..., prior=...)",
        )
    _check_engine(engine)
    if not isinstance(epochs, int) or epochs < 1:
        raise InvalidArgumentError("epochs is out of range", given=epochs, accepted="1, 2, ...")
    if not bnn.sites:
        raise SiteError(
            "no parameter of the net has a prior",
            given=type(bnn.net).__name__,
            accepted="a net with linear, convolution or attention layers, or priors.by_site({name: "
            "prior})",
        )


def _check_engine(engine: object) -> None:
    if isinstance(engine, Engine) and not isinstance(engine, type):
        return
    members = [name for name in vars(Engine) if not name.startswith("_")]
    missing = [name for name in members if not hasattr(engine, name)]
    if isinstance(engine, type) or len(missing) == len(members):
        problem, accepted = "unknown engine", "engines.Turbo(), engines.SVI(), engines.MAP()"
    else:
        problem = f"the engine lacks {', '.join(missing)}"
        accepted = f"an object with {', '.join(members)}"
    raise InvalidArgumentError(problem, given=engine, accepted=accepted)


def _check_autocast(autocast: object) -> None:
    # half precision would need its gradients scaled
    if autocast not in (None, torch.bfloat16):
        raise InvalidArgumentError(
            "autocast is no type that training can use",
            given=autocast,
            accepted="torch.bfloat16, or None",
        )


def _kl_weight(engine: AnyEngine, bnn: BayesianNet) -> float:
    if isinstance(engine, Turbo) and engine.weights == "diagonal":
        return engine.completed(bnn).kl_weight_at(1.0)
    return 1.0


def _share(density: Mapping[str, float], bnn: BayesianNet) -> float:
    sizes = {name: site.shape.numel() for name, site in bnn.sites.items()}
    return sum(density[name] * size for name, size in sizes.items()) / sum(sizes.values())


__all__ = ["Callback", "Snapshot", "fit", "fit_all"]
