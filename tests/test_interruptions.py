"""Trainings that are interrupted, and what checkpoints promise of them.

An exception out of a callback or a step stands for every kind of end; that a process which is
killed at any moment, also while it writes, goes on to the same bits is tested by really killing it.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.errors import (
    CheckpointError,
    CheckpointWarning,
    InvalidArgumentError,
    StorageError,
    UnsupportedError,
)
from tests.contract.test_saving import differences

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, BATCHES = 4, 4
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(64, 5, generator=GENERATOR)
Y = (X[:, 0] > 0).long()
CHAIN = priors.ThreeLayer(support=supports.Chain(0.3, 3.0))
ENGINES: dict[str, tuple[Any, priors.Prior]] = {
    "turbo": (engines.Turbo(messages_every=3, refresh_every=2), CHAIN),
    "svi": (engines.SVI(lr=0.01), priors.Horseshoe()),
    "map": (engines.MAP(lr=0.01), priors.Normal(1.0)),
}


def model(prior: priors.Prior = CHAIN, hidden: int = 6) -> ptv.BayesianNet:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(5, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 2)
    )
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)


def train(directory: Any = None, source: Any = (X, Y), **options: Any) -> ptv.Fit:
    settings: dict[str, Any] = {
        "bnn": model(), "engine": ENGINES["turbo"][0], "epochs": EPOCHS, "seed": 3,
        "batch_size": 64 // BATCHES, "progress": False, "device": "cpu", "checkpoint": directory,
    }  # fmt: skip
    settings |= options
    return ptv.fit(settings.pop("bnn"), source, **settings)


def after(epoch: int) -> list[Callable[..., None]]:
    """Callbacks that end a training when an epoch is done, before its checkpoint."""

    def stop(record: ptv.EpochRecord, _snapshot: object) -> None:
        if record.epoch == epoch:
            raise KeyboardInterrupt

    return [stop]


def in_step(number: int, engine: Any) -> Any:
    """An engine that ends a training in one of its own steps, counted from 1."""
    left = iter(range(number))

    class Interrupting(type(engine)):  # type: ignore[misc]
        def step(self, state: Any, batch: Any) -> float:
            if next(left) == number - 1:
                raise KeyboardInterrupt
            loss: float = super().step(state, batch)
            return loss

    Interrupting.__qualname__ = type(engine).__qualname__
    Interrupting.__module__ = type(engine).__module__
    settings = {f.name: getattr(engine, f.name) for f in dataclasses.fields(engine) if f.init}
    return Interrupting(**settings)


def seen(fit: ptv.Fit) -> list[Any]:
    """All of a fit but the seconds that it took."""
    torch.manual_seed(0)
    records = [dataclasses.replace(record, seconds=0.0) for record in fit.history]
    posterior = fit.posterior
    return [
        posterior.draw(), posterior.moments(), posterior.support_probs(), fit.elbo, records,
        dict(fit.bnn.state_dict()), fit.training,
    ]  # fmt: skip


def assert_same(first: ptv.Fit, second: ptv.Fit) -> None:
    assert differences(seen(first), seen(second)) == []


def steps_in(directory: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[1]) for path in directory.glob("step-*"))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("number", [1, 7, 16])
def test_an_interrupted_training_ends_with_the_same_bits(
    name: str, number: int, tmp_path: Path
) -> None:
    engine, prior = ENGINES[name]
    kept = ptv.Checkpoints(tmp_path, every_steps=3)
    whole = train(bnn=model(prior), engine=engine)
    with pytest.raises(KeyboardInterrupt):
        train(kept, bnn=model(prior), engine=in_step(number, engine))
    assert_same(whole, train(kept, bnn=model(prior), engine=engine, resume=True))
    again = train(kept, bnn=model(prior), engine=engine, resume=True)
    assert_same(whole, again)


class Items(Dataset[tuple[Tensor, Tensor]]):
    """Points with noise from torch's generator."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index] + 0.1 * torch.randn(5), Y[index]


def loader(items: Any, **options: Any) -> Any:
    return DataLoader(items, batch_size=64 // BATCHES, shuffle=True, **options)


@pytest.mark.parametrize(
    "source",
    [
        Items,
        lambda: loader(TensorDataset(X, Y)),
        lambda: loader(Items(), generator=torch.Generator().manual_seed(5)),
        pytest.param(lambda: loader(Items(), num_workers=2), marks=pytest.mark.slow),
    ],
    ids=["data set", "loader", "own generator", "workers"],
)
def test_the_order_of_the_data_goes_on(source: Callable[[], Any], tmp_path: Path) -> None:
    whole = train(source=source())
    kept = ptv.Checkpoints(tmp_path, every_steps=1)
    with pytest.raises(KeyboardInterrupt):
        train(kept, source(), engine=in_step(7, ENGINES["turbo"][0]))
    assert_same(whole, train(kept, source(), resume=True))


def test_checkpoints_change_nothing_of_a_training(tmp_path: Path) -> None:
    whole = train()
    for kept in (
        tmp_path / "epochs",
        ptv.Checkpoints(tmp_path / "steps", every_steps=2),
        ptv.Checkpoints(tmp_path / "validation", validation=(X[:20], Y[:20])),
    ):
        assert_same(whole, train(kept))


def test_a_score_on_other_data_leaves_a_narrow_net_as_it_is(tmp_path: Path) -> None:
    """Its batch statistics above all, which data far from the training's would spoil."""
    engine = engines.Turbo(compact_every=2, compression=3.0)
    x = torch.cat([X, 0.01 * X], 1)
    options: dict[str, Any] = {
        "epochs": 30, "engine": engine, "source": (x, Y), "batch_size": 32
    }  # fmt: skip
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 2))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.ThreeLayer())
    narrow: list[bool] = []

    class Watched(engines.Turbo):
        def evaluate(self, state: Any, batch: Any) -> float:
            narrow.append(state.active is not state.whole)
            return super().evaluate(state, batch)

    watched = Watched(compact_every=2, compression=3.0)
    kept = ptv.Checkpoints(tmp_path, validation=(x[:20] + 7.0, Y[:20]))
    whole = train(bnn=bnn, **options)
    assert_same(whole, train(kept, bnn=bnn, **options | {"engine": watched}))
    assert any(narrow), "no score was one of a narrow net"


@pytest.mark.parametrize("name", ENGINES)
def test_writing_and_taking_up_have_no_side_effects(name: str, tmp_path: Path) -> None:
    engine, prior = ENGINES[name]
    bnn = model(prior)
    before = {name: value.clone() for name, value in bnn.state_dict().items()}
    random_state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, bnn=bnn, engine=engine, callbacks=after(3))
    for resume in (True, "best"):
        train(tmp_path, bnn=bnn, engine=engine, resume=resume)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert list(pyro.get_param_store().keys()) == []
    assert differences(before, dict(bnn.state_dict())) == []
    assert bnn.num_data is None
    assert bnn.training


def test_what_is_kept(tmp_path: Path) -> None:
    train(tmp_path / "each")
    assert {12, 16} <= set(steps_in(tmp_path / "each"))
    assert len(steps_in(tmp_path / "each")) <= 3
    train(tmp_path / "third", checkpoint_every=3)
    assert {12, 16} <= set(steps_in(tmp_path / "third")), "the last epoch is always kept"
    train(ptv.Checkpoints(tmp_path / "steps", keep=3, every_steps=3))
    assert steps_in(tmp_path / "steps")[-3:] == [12, 15, 16]


def test_callbacks_are_not_called_again(tmp_path: Path) -> None:
    epochs: list[int] = []
    note = lambda record, _snapshot: epochs.append(record.epoch)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=[note, *after(3)])
    assert epochs == [1, 2, 3]
    train(tmp_path, callbacks=[note])
    assert epochs == [1, 2, 3, 3, 4], "epoch 3 had no checkpoint yet"


def test_the_seconds_of_all_parts_count(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=after(3))
    fit = train(tmp_path)
    seconds = [record.seconds for record in fit.history]
    assert seconds == sorted(seconds)
    assert fit.seconds >= seconds[-1]


def test_the_best_is_given_back_without_training(tmp_path: Path) -> None:
    snapshots: list[ptv.Fit] = []
    kept = ptv.Checkpoints(tmp_path, keep=1, validation=(X[:32], Y[:32]))
    whole = train(kept, callbacks=[lambda _record, snapshot: snapshots.append(snapshot())])
    best = train(kept, resume="best")
    assert len(best.history) == min(steps_in(tmp_path)) // BATCHES or len(best.history) == EPOCHS
    assert best.history.elbo == whole.history.elbo[: len(best.history)]
    mean = snapshots[len(best.history) - 1].posterior.mean()
    assert differences(best.posterior.mean(), mean) == []
    assert best.elbo is not None
    assert_same(whole, train(kept))


def test_without_validation_data_the_epochs_own_elbo_counts(tmp_path: Path) -> None:
    engine, prior = ENGINES["map"]
    kept = ptv.Checkpoints(tmp_path, keep=1)
    whole = train(kept, bnn=model(prior), engine=engine)
    best = train(kept, bnn=model(prior), engine=engine, resume="best")
    assert best.history[-1].elbo == max(whole.history.elbo)


OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 4},
    "epochs": {"epochs": EPOCHS + 1},
    "batch size": {"batch_size": 32},
    "engine": {"engine": engines.Turbo(lr=0.001)},
    "prior": {"bnn": model(priors.ThreeLayer(support=supports.Chain(0.3, 3.1)))},
    "net": {"bnn": model(hidden=7)},
    "data": {"source": (X + 1e-6, Y)},
}


def test_another_training_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for aspect, options in OTHERS.items():
        for resume in (True, "auto", "best"):
            with pytest.raises(CheckpointError, match="are of another training") as error:
                train(tmp_path, **options, resume=resume)
            assert f"{aspect}: " in str(error.value)
            assert ", in the checkpoint " in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_resume_says_what_is_expected_to_be_there(tmp_path: Path) -> None:
    for resume in (True, "best"):
        with pytest.raises(CheckpointError, match="no intact checkpoint to go on from"):
            train(tmp_path / "none", resume=resume)
        with pytest.raises(InvalidArgumentError, match="there is nothing to resume from"):
            train(resume=resume)
    train(tmp_path / "run", resume=False)
    with pytest.raises(CheckpointError, match="the directory holds checkpoints already"):
        train(tmp_path / "run", resume=False)
    with pytest.raises(InvalidArgumentError, match="checkpoint_every is out of range; given: 0"):
        train(tmp_path / "run", checkpoint_every=0)


@pytest.mark.usefixtures("no_type_checks")
def test_another_way_to_resume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="resume is unknown; given: always"):
        train(tmp_path, resume="always")


def flipped(content: bytes) -> bytes:
    """With one bit that is another, in the middle."""
    changed = bytearray(content)
    changed[len(content) // 2] ^= 8
    return bytes(changed)


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:-100]], ids=["bit", "cut"])
def test_a_damaged_checkpoint_costs_one_epoch(
    damage: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The one before is taken; without any there is an error, not a new start."""
    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=after(4))
    newest, older = (tmp_path / f"step-{steps:09d}.safetensors" for steps in (12, 8))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in (newest, older):
        (damaged / path.name).write_bytes(damage(path.read_bytes()))
    shutil.copy(damaged / newest.name, newest)
    for resume in (True, "auto"):
        with pytest.raises(CheckpointError, match="no intact checkpoint to go on from"):
            train(damaged, resume=resume)
    assert steps_in(damaged) == [8, 12]
    with caplog.at_level(logging.WARNING, logger="pyro_turbovbi"):
        assert_same(whole, train(tmp_path))
    assert "is left out: the file is damaged" in caplog.text


def failing(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_fails_before_the_first_step_is_an_error(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise failing(number)

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match=os.strerror(number)):
        train(tmp_path, callbacks=after(1))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_fails_later_loses_no_work(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning, the same result, and the checkpoints from before the failure."""
    whole, fsync, full = train(), os.fsync, [False]

    def sometimes(descriptor: int) -> None:
        if full[0]:
            raise failing(number)
        fsync(descriptor)

    def fill(record: ptv.EpochRecord, _snapshot: object) -> None:
        full[0] = record.epoch in (2, 3)

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", sometimes)
        with pytest.warns(CheckpointWarning, match=os.strerror(number)) as caught:
            assert_same(whole, train(tmp_path, callbacks=[fill]))
        assert len(caught) == 1
    assert steps_in(tmp_path) == [4, 16], "written again when there was room again"
    shutil.copy(tmp_path / f"step-{4:09d}.safetensors", tmp_path / "spare")
    (tmp_path / f"step-{16:09d}.safetensors").unlink()
    assert_same(whole, train(tmp_path, resume=True))


class FromNumPy(Items):
    """Points with noise from a generator that nobody stores."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index] + torch.from_numpy(np.random.randn(5)).float(), Y[index]


def function_guide(_model: object) -> Any:
    loc = torch.zeros(1, 5, requires_grad=True)

    def guide(*_args: Any) -> None:
        pyro.sample("weight", pyro.distributions.Normal(loc, 0.1).to_event(2))

    return guide


def linear(prior: priors.Prior) -> ptv.BayesianNet:
    net = nn.Linear(5, 1, bias=False)
    return ptv.lift(net, likelihood=likelihoods.Gaussian(learn=False), prior=prior)


NORMAL = priors.Normal(1.0)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nuts": (
        {"engine": engines.NUTS(num_samples=2, warmup=1), "bnn": linear(NORMAL)},
        "'nuts' cannot be interrupted",
    ),
    "exact": (
        {"engine": engines.Turbo(weights="exact"), "bnn": linear(CHAIN)},
        "'turbo' cannot be interrupted",
    ),
    "guide": (
        {"engine": engines.SVI(function_guide), "bnn": linear(NORMAL)},
        "keeps its parameters to itself",
    ),
    "data": ({"source": FromNumPy(), "bnn": model()}, "come in another way when they are read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_resumed_is_refused_before_the_first_step(case: str, tmp_path: Path) -> None:
    options, message = REFUSED[case]
    options = {"source": (X, X[:, :1]), **options}

    def note(_record: object, _snapshot: object) -> None:
        raise AssertionError("an epoch was trained")

    with pytest.raises(UnsupportedError, match=message) as error:
        train(tmp_path, **options, callbacks=[note])
    assert "; accepted: " in str(error.value)
    assert steps_in(tmp_path) == []
    train(**options, epochs=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("count", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_a_killed_training_ends_with_the_same_bits(count: int, tmp_path: Path) -> None:
    """Killed within a write, within a step and, 50 times, at random moments."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.persistence.killed", tmp_path, str(count)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(result["same"] for result in results)
    kills = Counter({kind: 0 for kind in ("writing", "in a step", "random")})
    for result in results:
        kills[result["kind"]] += result["kills"]
    planned = min(count // 2, 5)
    assert (kills["writing"], kills["in a step"]) == (planned, planned)
    assert kills["random"] >= count - 2 * planned
