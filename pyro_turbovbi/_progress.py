"""The bar that a training shows: time left, ELBO, weights left, in a line that fits 80 columns."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, ETA {remaining}{postfix}"


def _watched() -> bool:
    """Whether the error stream is a terminal, or a notebook's."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class ProgressBar:
    """What a training shows of itself on the error stream while it runs.

    Args:
        engine: Short name of the engine.
        epochs: Epochs that are planned.
        steps: Steps that are planned.
        done: Steps that were done before.
        measure: What the numbers are: `"ELBO"`, or `"log joint"` of a point estimate.
        shown: Whether anything is shown at all; in a log nothing is, which has no use for a bar.
    """

    def __init__(
        self, engine: str, epochs: int, steps: int, done: int, measure: str, *, shown: bool
    ) -> None:
        self._engine, self._epochs, self._measure = engine, epochs, measure
        self._left = ""
        self._bar: tqdm[Any] = tqdm(
            total=steps,
            initial=done,
            disable=not (shown and _watched()),
            bar_format=_FORMAT,
            dynamic_ncols=True,
            leave=False,
        )

    def begin(self, epoch: int, done: int) -> None:
        """An epoch begins, perhaps once more.

        Args:
            epoch: Its number, from 1.
            done: Steps that were done before.
        """
        self._bar.n = done
        self._bar.set_description_str(f"{self._engine} {epoch}/{self._epochs}")

    def step(self, value: float) -> None:
        """A step was done.

        Args:
            value: Mean ELBO or log joint of the epoch so far, in nats.
        """
        if not self._bar.disable:
            self._bar.set_postfix_str(self._words(value), refresh=False)
            self._bar.update()

    def end(self, value: float, left: float) -> None:
        """An epoch was done.

        Args:
            value: Its mean ELBO or log joint, in nats.
            left: Share of the weights that are left.
        """
        self._left = f", weights left {left:.1%}"
        self._bar.set_postfix_str(self._words(value))

    def _words(self, value: float) -> str:
        number = f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"
        return f"{self._measure} {number}{self._left}"

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()
