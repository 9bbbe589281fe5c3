"""Trainings that are killed: run by `test_interruptions`, in a process of its own.

Importing takes seconds and a training a fraction of one, so this process imports once, never trains
itself (a fork of a process whose autograd has threads would hang), and forks every training.

    python -m tests.persistence.killed DIRECTORY KILLS

Prints one line of JSON a trial: how it was killed and how often, and whether its result is the one
of a training that was left alone. After every kill all checkpoints must be intact, and the newest
one no older than before.
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
from pyro_turbovbi.persistence.checkpoints import KIND, checkpoint_files
from pyro_turbovbi.persistence.container import unpack

EPOCHS, ROWS, BATCH = 6, 112, 16
STEPS = EPOCHS * ROWS // BATCH
#: Where in a write, and in which one, a training is killed.
WRITES = [("half", 5), ("named", 7), ("half", 0), ("written", 9), ("synchronised", 3)]
#: Steps of its own in which a training is killed.
IN_STEPS = (20, 1, 11, 33, 41)
#: Kills at random moments of one training, at most.
MOST = 6


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


def newest(directory: Path) -> int:
    """Steps that the newest checkpoint has done, -1 without any; fails if one is damaged."""
    steps = [unpack(KIND, path.read_bytes())["step"] for path in checkpoint_files(directory)]
    return max(steps, default=-1)


def outlived(directory: Path, child: int, before: int) -> bool:
    """Wait for a process; whether it was killed, and then has left what a training goes on from."""
    if not killed(child):
        return False
    assert newest(directory) >= before, "the newest checkpoint is gone"
    return True


def killed_at_random(directory: Path, out: Path, seconds: float, source: random.Random) -> int:
    """Kill a training at random moments, again and again; returns how often it was."""
    for kills in range(MOST):
        before = newest(directory)
        child = in_fork(lambda: train(directory, out))
        time.sleep(source.uniform(0.0, seconds))
        os.kill(child, signal.SIGKILL)
        if not outlived(directory, child, before):
            return kills
    left_alone(directory, out)
    return MOST


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

    kills = int(outlived(directory, in_fork(task), newest(directory)))
    left_alone(directory, out)
    return kills


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

    kills = int(outlived(directory, in_fork(task), newest(directory)))
    left_alone(directory, out)
    return kills


def left_alone(directory: Path | None, out: Path) -> None:
    """Let a training come to its end."""
    assert not killed(in_fork(lambda: train(directory, out)))


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


def main(place: Path, count: int) -> None:
    torch.set_num_threads(1)
    # machine code of the kernels is loaded once, for all that follow
    supports.Grid(0.3, 2.0).distribution(torch.Size([3, 4])).posterior(torch.zeros(3, 4))
    baseline = place / "baseline"
    started = time.perf_counter()
    left_alone(None, baseline)
    seconds = time.perf_counter() - started
    source = random.Random(0)
    # in turn, so that a few kills are of all kinds; then at random moments alone
    planned: list[tuple[str, Callable[[Path, Path], int]]] = []
    for (where, number), step in zip(WRITES, IN_STEPS, strict=True):
        planned += [
            ("writing", lambda d, o, w=where, n=number: killed_while_writing(d, o, w, n)),  # type: ignore[misc]
            ("in a step", lambda d, o, at=step: killed_in_a_step(d, o, at)),  # type: ignore[misc]
        ]
    at_random = ("random", lambda d, o: killed_at_random(d, o, seconds, source))
    total, trials = 0, itertools.chain(planned, itertools.repeat(at_random))
    for number, (kind, trial) in enumerate(trials):
        if total >= count:
            return
        out = place / f"fit{number}"
        kills = trial(place / f"run{number}", out)
        total += kills  # moments after the end of a training kill nothing
        result = {"kind": kind, "kills": kills, "same": same(baseline, out)}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
