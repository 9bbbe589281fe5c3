"""One training from its first step to its result: the loop of `fit`, and what it keeps.

A run can be stored at any step and taken up again, from a file or from memory: `saved` and `load`.
The order of the data is stored as the random state in front of the epoch and the number of batches
that were done since.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice

import torch

from pyro_turbovbi._checkpointing import Keeper
from pyro_turbovbi._progress import ProgressBar
from pyro_turbovbi._pyro import buffers_kept
from pyro_turbovbi._random import seeded
from pyro_turbovbi.batches import Batch, Batches, to_device
from pyro_turbovbi.checks import check_data, check_trains
from pyro_turbovbi.distributed import ALONE, World
from pyro_turbovbi.engines.protocol import AnyEngine, Plan, Resumable
from pyro_turbovbi.engines.turbo import Turbo
from pyro_turbovbi.errors import NumericalError, TrainingWarning, UnsupportedError
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.persistence.identity import Identity, described, described_at_start
from pyro_turbovbi.persistence.random_state import RandomSources
from pyro_turbovbi.persistence.trees import Tree, snapshot
from pyro_turbovbi.result import EpochRecord, Fit, History, support_probs
from pyro_turbovbi.training import DataDigest, Training, start_digest

Snapshot = Callable[[], Fit]
Callback = Callable[[EpochRecord, Snapshot], None]

#: What learning rates are multiplied with, once, after a loss that was not finite.
CAUTION = 0.1


@dataclass
class Position:
    """Where in its running epoch a training stands.

    Attributes:
        batches: Batches that were done.
        rows: Their data points.
        total: Sum of their losses, each times its data points.
    """

    batches: int = 0
    rows: int = 0
    total: float = 0.0

    @property
    def mean(self) -> float:
        """Mean loss of the data points so far."""
        return self.total / self.rows

    def count(self, loss: float, rows: int) -> None:
        """Another batch was done."""
        self.batches += 1
        self.rows += rows
        self.total += loss * rows


class Run:
    """One training: the state that the loop needs.

    Args:
        bnn: The lifted net, on the device; it is trained in place.
        batches: The training data.
        engine: The engine.
        epochs: Passes over the data.
        device: Where to train.
        seed: Seed of everything random, which has been set.
        world: The processes that train together.

    Attributes:
        history: Records of the epochs that are done.
        example: The first batch of data.
    """

    def __init__(
        self,
        bnn: BayesianNet,
        batches: Batches,
        engine: AnyEngine,
        epochs: int,
        device: torch.device,
        seed: int,
        world: World = ALONE,
    ) -> None:
        self.bnn, self.batches, self.engine, self.device = bnn, batches, engine, device
        self.epochs, self.world = epochs, world
        self.random = RandomSources(device, batches.generators)
        data, start = DataDigest(), start_digest(bnn.net)
        self._likelihood = described_at_start(bnn.likelihood)
        self.example = check_data(bnn, data.reading(batches), device)
        if data.smallest is not None and not engine.full_batch:
            check_trains(bnn, self._on_device(data.smallest))
        num_data = data.points if batches.num_data is None else batches.num_data
        bnn.num_data = num_data
        self.training = Training(
            epochs=0,
            batch_size=len(self.example.y),
            num_data=num_data,
            seed=seed,
            data=data.value,
            start=start,
            kl_weight=_kl_weight(engine, bnn),
        )
        self.history = History()
        self.started = time.perf_counter()
        self._require_same_start()
        plan = Plan(num_data, epochs * len(batches), self.example, world)
        with buffers_kept(bnn):
            self.state = engine.init(bnn.train(), plan)
        self._position = Position()
        self._epoch_start = self.random.state()
        self._good: Tree = None  # the last state that is known to be good
        self._cautious = False

    @property
    def steps_done(self) -> int:
        """Steps that were taken so far."""
        return len(self.history) * len(self.batches) + self._position.batches

    def train(self, callbacks: Sequence[Callback], progress: bool, keeper: Keeper | None) -> Fit:
        """Take all steps that are left.

        Args:
            callbacks: See `ptv.fit`.
            progress: See `ptv.fit`.
            keeper: Keeps checkpoints.

        Raises:
            NumericalError: If a loss, gradient or message is not finite, also with lower rates.
        """
        kind = self.engine.elbo_kind(self.state)
        bar = ProgressBar(
            self.engine.name,
            self.epochs,
            self.epochs * len(self.batches),
            self.steps_done,
            kind if kind == "log joint" else "ELBO",
            shown=progress and self.world.first,
        )
        with closing(bar):
            while len(self.history) < self.epochs:
                self._require_same_order()
                record = self._guarded_epoch(bar, keeper)
                self.history.append(record)
                self._position = Position()
                for callback in callbacks:
                    callback(record, self._snapshot)
                    self.bnn.train()
                if keeper is not None:
                    keeper.after_epoch(self)
        return self.conclude()

    def conclude(self) -> Fit:
        """The result of the present state; there can be no further step."""
        seconds = self._seconds()
        self.engine.finish(self.state)
        kind = self.engine.elbo_kind(self.state)
        self.bnn.eval()
        return self._result(seconds, None if kind == "log joint" else self._elbo(self.batches))

    def elbo_of(self, batches: Batches) -> float:
        """ELBO in nats with other data in the place of the training data.

        Random numbers are the same ones at every call, and the training's are left as they were.
        """
        self.bnn.eval()
        with seeded(0):
            elbo = self._elbo(batches)
        self.bnn.train()
        return elbo

    def saved(self) -> Tree:
        """The state of the training, a copy.

        Raises:
            UnsupportedError: If something in it cannot be stored.
        """
        return {"history": self.history.plain(), **self._saved_but_history()}

    def _saved_but_history(self) -> dict[str, Tree]:
        """As `saved`, at a cost that does not grow with the epochs that are done."""
        saved: dict[str, Tree] = snapshot(
            {
                "position": asdict(self._position),
                "seconds": self._seconds(),
                "epoch_start": self._epoch_start,
                "random": self.random.state(),
                "cautious": self._cautious,
                "model": dict(self.bnn.state_dict()),
                "buffers": dict(self.bnn.named_buffers()),  # a state_dict need not have them all
                "engine": self.state.state_dict(),
            }
        )
        return saved

    def load(self, saved: Tree) -> None:
        """Go back, or on, to what `saved` gave."""
        self.history = History.of_plain(saved["history"])
        self._load_but_history(saved)

    def _load_but_history(self, saved: Tree) -> None:
        self._position = Position(**saved["position"])
        self.started = time.perf_counter() - saved["seconds"]
        self._cautious = saved["cautious"]
        self.bnn.load_state_dict(saved["model"])
        for name, buffer in self.bnn.named_buffers():
            buffer.copy_(saved["buffers"][name])
        self.state.load_state_dict(saved["engine"])
        self._epoch_start = saved["epoch_start"]
        self.random.restore(saved["random"])

    def mark_good(self, saved: Tree) -> None:
        """Where to go back to if a later step fails."""
        self._good = saved

    def identity(self) -> Identity:
        """What must agree for a stored state to be one of this training."""
        bnn, training = self.bnn, self.training
        aspects: dict[str, object] = {
            "engine": self.engine,
            "prior": bnn.prior,
            "likelihood": self._likelihood,
            "net": bnn.net,
            "start weights": training.start,
            "data": training.data,
            "data points": training.num_data,
            "batch size": training.batch_size,
            "batches": len(self.batches),
            "epochs": self.epochs,
            "seed": training.seed,
            "device": self.device.type,
            "autocast": str(bnn.autocast),
        }
        if bnn.compiler is not None:
            aspects["compile"] = bnn.compiler
        return {name: described(value) for name, value in aspects.items()}

    def _require_same_start(self) -> None:
        """Several processes must start from the same net and read the same data."""
        if self.world.alone:
            return
        first = DataDigest()
        first.count(self.example)
        self.world.require_same(
            self.identity() | {"first batch": first.value},
            "the same script in all of them, with a seed set before the net and the data are made",
        )

    def _require_same_order(self) -> None:
        """Several processes must go on drawing the same weights and the same order of the data."""
        if not self.world.alone:
            self.world.require_same(
                {"random states": self.random.digest()},
                "transforms, samplers and callbacks that draw the same from torch's generators in "
                "all of them",
            )

    def _guarded_epoch(self, bar: ProgressBar, keeper: Keeper | None) -> EpochRecord:
        """One epoch; where a step fails for the first time, once more from the last good state."""
        self._good = self._last_good()
        try:
            return self._epoch(bar, keeper)
        except NumericalError as error:
            located = _located(error, len(self.history) + 1)
            if not self._go_back():
                raise located from error
            if self.world.first:
                warnings.warn(
                    f"{located}. Training goes on from step {self.steps_done}, with learning rates "
                    f"{CAUTION:g} times as large",
                    TrainingWarning,
                    stacklevel=4,
                )
        return self._guarded_epoch(bar, keeper)

    def _last_good(self) -> Tree:
        """The present state, where it can be taken up again and there is still a second try."""
        lean = isinstance(self.engine, Turbo) and self.engine.lean  # a copy is as much memory again
        if lean or self._cautious or not isinstance(self.state, Resumable):
            return None
        try:
            return self._saved_but_history()
        except UnsupportedError:
            return None

    def _go_back(self) -> bool:
        """Restore the last good state and lower the learning rates; False if there is no way."""
        if self._good is None or self._cautious:
            return False
        self._load_but_history(self._good)  # a good state is one of the running epoch
        self._cautious = True
        lowered: bool = self.state.scale_lr(CAUTION)
        return lowered

    def _epoch(self, bar: ProgressBar, keeper: Keeper | None) -> EpochRecord:
        bar.begin(len(self.history) + 1, self.steps_done)
        for batch in self._batches_left():
            loss = self.engine.step(self.state, self._on_device(batch))
            self._position.count(loss, len(batch.y))
            bar.step(-self._position.mean)
            if keeper is not None and self._position.batches < len(self.batches):
                keeper.after_step(self)
        density = {
            name: float((probs > 0.5).float().mean())
            for name, probs in support_probs(self.bnn, self.engine.posterior(self.state)).items()
        }
        loss = self._position.mean
        bar.end(-loss, _share(density, self.bnn))
        return EpochRecord(len(self.history) + 1, loss, self._seconds(), density)

    def _batches_left(self) -> Iterator[Batch]:
        """The batches of the running epoch that have not been done."""
        if not self._position.batches:
            self._epoch_start = self.random.state()
            return iter(self.batches)
        now = self.random.state()
        self.random.restore(self._epoch_start)
        batches = iter(self.batches)
        for _ in islice(batches, self._position.batches):
            pass
        self.random.restore(now)
        return batches

    def _on_device(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        return Batch((to_device(batch.x, self.device), batch.y.to(self.device, non_blocking=True)))

    def _elbo(self, batches: Batches) -> float:
        total, rows = 0.0, 0
        for batch in batches:
            loss = self.engine.evaluate(self.state, self._on_device(batch))
            total, rows = total + loss * len(batch.y), rows + len(batch.y)
        return -total / rows

    def _seconds(self) -> float:
        return time.perf_counter() - self.started

    def _snapshot(self) -> Fit:
        return self._result(self._seconds(), None)

    def _result(self, seconds: float, elbo: float | None) -> Fit:
        posterior = self.engine.posterior(self.state)  # first: it brings the net up to date
        bnn = copy.deepcopy(self.bnn).eval()
        bnn.autocast = bnn.compiler = None
        return Fit(
            bnn=bnn,
            posterior=posterior,
            history=History(self.history),
            engine_name=self.engine.name,
            elbo=elbo,
            elbo_kind=self.engine.elbo_kind(self.state),
            seconds=seconds,
            training=replace(self.training, epochs=len(self.history)),
        )


def _located(error: NumericalError, epoch: int) -> NumericalError:
    """The error with the epoch in it."""
    return NumericalError(
        f"epoch {epoch}: {error.problem}", given=error.given, accepted=error.accepted
    )


def _kl_weight(engine: AnyEngine, bnn: BayesianNet) -> float:
    if isinstance(engine, Turbo) and engine.weights == "diagonal":
        return engine.completed(bnn).kl_weight_at(1.0)
    return 1.0


def _share(density: dict[str, float], bnn: BayesianNet) -> float:
    sizes = {name: site.shape.numel() for name, site in bnn.sites.items()}
    return sum(density[name] * size for name, size in sizes.items()) / sum(sizes.values())
