"""The bar of a training, as a terminal gets it."""

from __future__ import annotations

import os
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors
from pyro_turbovbi._progress import ProgressBar
from pyro_turbovbi.cli import main
from tests.cli.helpers import write_recipe

needs_terminals = pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")


def shown(
    monkeypatch: pytest.MonkeyPatch, action: Callable[[], object], columns: int = 80
) -> list[str]:
    """What a terminal gets on the error stream: one state of the line after another."""
    import fcntl
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    received: list[bytes] = []

    def receive() -> None:
        try:
            while chunk := os.read(ours, 65536):
                received.append(chunk)
        except OSError:  # the other end is closed
            return

    reader = threading.Thread(target=receive)
    reader.start()
    with monkeypatch.context() as patch, os.fdopen(theirs, "w", encoding="utf-8") as stream:
        patch.setattr(sys, "stderr", stream)
        action()
    reader.join()
    os.close(ours)
    return b"".join(received).decode().split("\r")


def drawn(epoch: int, value: float, left: float) -> None:
    """A long training in its third hour."""
    bar = ProgressBar("turbo", 300, 3000, 0, "ELBO", shown=True)
    bar._bar.start_t -= 9000.0
    with closing(bar):
        bar.begin(epoch, 10 * (epoch - 1))
        bar.step(value)
        bar.end(value, left)


@needs_terminals
@pytest.mark.parametrize("columns", [80, 120])
def test_a_line_holds_time_elbo_and_weights_and_does_not_wrap(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = shown(monkeypatch, lambda: drawn(100, -1_234_567.0, 0.2412), columns)
    *_, last, blank, end = states
    assert last.startswith("turbo 100/300  33%|")
    assert "| 2:30:00, ETA 5:" in last
    assert last.endswith(", ELBO -1,234,567, weights left 24.1%")
    assert (blank.strip(), end) == ("", "")
    assert max(map(len, states)) == columns - 1


@needs_terminals
@pytest.mark.parametrize(
    ("value", "words"), [(-12.3456, "-12.35"), (-4567.8, "-4,568"), (-1e12, "-1e+12")]
)
def test_numbers_of_every_size(value: float, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f", ELBO {words}, weights" in shown(monkeypatch, lambda: drawn(1, value, 1.0))[-3]


@needs_terminals
def test_a_training_shows_its_elbo_before_the_first_epoch_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    likelihood, prior = likelihoods.Categorical(), priors.Normal()
    bnn = ptv.lift(nn.Linear(3, 2), likelihood=likelihood, prior=prior)
    values: list[float] = []
    usual = ProgressBar.step

    def step(self: ProgressBar, value: float) -> None:
        values.append(value)
        self._bar.mininterval = 0  # every state is drawn
        usual(self, value)

    monkeypatch.setattr(ProgressBar, "step", step)
    fits: list[ptv.Fit] = []

    def train() -> None:
        engine = engines.MAP()
        fits.append(ptv.fit(bnn, (x, y), engine=engine, epochs=2, batch_size=20, device="cpu"))

    states = shown(monkeypatch, train)
    assert values[1::2] == pytest.approx(fits[0].history.elbo)
    first, last = (f", log joint {values[place]:.4g}" for place in (0, 3))
    assert any(state.startswith("map 1/2  25%") and state.endswith(first) for state in states)
    assert states[-3].startswith("map 2/2 100%")
    assert states[-3].endswith(f"{last}, weights left 100.0%")


@needs_terminals
def test_the_command_line_shows_it_to_a_terminal_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path)
    states = shown(monkeypatch, lambda: main(["fit", "recipe.yaml"]))
    assert any("ETA" in state and "ELBO" in state and "weights left" in state for state in states)
    assert max(map(len, states)) < 80
    assert main(["fit", "recipe.yaml"]) == 0
    assert capfd.readouterr().err == ""
