"""Trainings that are killed: run by `test_interruptions`, in a process of its own.

Importing takes seconds and a training a fraction of one, so this process imports once, never trains
itself (a fork of a process whose autograd has threads would hang), and forks every training.

    python -m tests.persistence.killed DIRECTORY random COUNT
    python -m tests.persistence.killed DIRECTORY writing COUNT

Prints one line of JSON a trial: how often it was killed, and whether its result is the one of a
training that was left alone.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.persistence import files

EPOCHS, ROWS, BATCH = 6, 112, 16
STEPS = EPOCHS * ROWS // BATCH
#: Where in a write, and in which one, a training is killed.
WRITES = [("half", 5), ("named", 7), ("half", 0), ("written", 9), ("synchronised", 3)]


def train(directory: Path | None, out: Path) -> None:
    """One training, from wherever it stands."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 16, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 1).long()
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 3)
    )
    prior = priors.ThreeLayer(support=supports.Grid(0.3, 2.0))
    fit = ptv.fit(
        ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior),
        (x, y),
        engine=engines.Turbo(messages_every=3, refresh_every=2, compact_every=2),
        epochs=EPOCHS,
        batch_size=BATCH,
        progress=False,
        device="cpu",
        checkpoint=None if directory is None else ptv.Checkpoints(directory, every_steps=3),
    )
    fit.save(out)


def in_fork(task: Callable[[], None]) -> int:
    """Run a task in a forked process; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        task()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def killed(child: int) -> bool:
    """Wait for a process; whether it was killed. One that failed fails this one."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the training failed"
    return False


def end() -> None:
    """What kill -9 does, to this very process."""
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_random(directory: Path, out: Path, seconds: float, source: random.Random) -> int:
    """Kill a training up to three times at random moments; returns how often it was."""
    kills = 0
    for _ in range(source.randint(1, 3)):
        child = in_fork(lambda: train(directory, out))
        time.sleep(source.uniform(0.0, seconds))
        os.kill(child, signal.SIGKILL)
        if not killed(child):
            return kills
        kills += 1
    assert not killed(in_fork(lambda: train(directory, out)))
    return kills


def killed_in_a_step(directory: Path, out: Path, steps: int) -> int:
    """Kill a training in the middle of a step, so many of its own after its start."""

    def task() -> None:
        step, left = engines.TurboVBI._set_gradients, iter(range(steps))

        def counted(run: engines.TurboVBI, draw: object) -> None:
            if next(left, None) is None:
                end()
            step(run, draw)  # type: ignore[arg-type]

        engines.TurboVBI._set_gradients = counted  # type: ignore[method-assign, assignment]
        train(directory, out)

    return int(killed(in_fork(task))) + killed_in_nothing(directory, out)


def killed_while_writing(directory: Path, out: Path, place: str, number: int) -> int:
    """Kill a training in the middle of writing one of its checkpoints."""

    def task() -> None:
        write, replace, synchronise = files._write, Path.replace, files._synchronise
        writes = iter(range(number))

        def half(draft: Path, content: bytes) -> None:
            due = next(writes, None) is None
            write(draft, content[: len(content) // 2] if due and place == "half" else content)
            if due and place in ("half", "written"):
                end()

        def named(draft: Path, target: Path) -> Path:
            target = replace(draft, target)
            if place == "named" and next(writes, None) is None:
                end()
            return target

        def synchronised(parent: Path) -> None:
            synchronise(parent)
            if place == "synchronised" and next(writes, None) is None:
                end()

        if place in ("half", "written"):
            files._write = half
        Path.replace = named  # type: ignore[method-assign, assignment]
        files._synchronise = synchronised
        train(directory, out)

    return int(killed(in_fork(task))) + killed_in_nothing(directory, out)


def killed_in_nothing(directory: Path | None, out: Path) -> int:
    """Let a training come to its end."""
    assert not killed(in_fork(lambda: train(directory, out)))
    return 0


def same(first: Path, second: Path) -> bool:
    """Whether two fits agree bit for bit in all but the seconds that they took."""
    fits = [ptv.Fit.load(path) for path in (first, second)]
    traces = [(fit.history.elbo, fit.elbo, [r.density for r in fit.history]) for fit in fits]
    states = [fit.bnn.state_dict() for fit in fits]
    posteriors = [
        {f"{kind} {name}": value for kind in ("loc", "scales", "support")
         for name, value in getattr(fit.posterior, kind).items()}
        for fit in fits
    ]  # fmt: skip
    return traces[0] == traces[1] and all(
        a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
        for a, b in (states, posteriors)
    )


def main(place: Path, kind: str, count: int) -> None:
    torch.set_num_threads(1)
    # machine code of the kernels is loaded once, for all that follow
    supports.Grid(0.3, 2.0).distribution(torch.Size([3, 4])).posterior(torch.zeros(3, 4))
    baseline = place / "baseline"
    started = time.perf_counter()
    killed_in_nothing(None, baseline)
    seconds = time.perf_counter() - started
    source = random.Random(count)
    trials: list[Callable[[Path, Path], int]] = []
    if kind == "random":
        trials = [lambda d, o: killed_at_random(d, o, 1.5 * seconds, source)] * count
        trials += [
            lambda d, o, at=at: killed_in_a_step(d, o, at)  # type: ignore[misc]
            for at in source.sample(range(1, STEPS), min(count, 5))
        ]
    else:
        trials = [
            lambda d, o, p=p, n=n: killed_while_writing(d, o, p, n)  # type: ignore[misc]
            for p, n in [
                ("half", 0),
                ("half", 5),
                ("written", 9),
                ("named", 7),
                ("synchronised", 3),
            ]
        ]
    total = 0
    for number in itertools.count():
        if number >= len(trials) and total >= count:
            return
        # moments after the end of a training kill nothing: then there are further trials
        trial = trials[number % len(trials)]
        out = place / f"fit{number}"
        kills = trial(place / f"run{number}", out)
        total += kills
        print(json.dumps({"kills": kills, "same": same(baseline, out)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
