"""An engine for recipes of tests: kills one of several processes in mid-epoch, once."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from pyro_turbovbi.batches import Batch
from pyro_turbovbi.engines import Turbo
from pyro_turbovbi.engines.turbo.engine import TurboState


@dataclass(frozen=True)
class Killing(Turbo):
    """Turbo-VBI that ends the process of a rank before a step, unless it was started anew.

    Args: see `Turbo`.
        victim: The rank.
        before: The step.
    """

    victim: int = 1
    before: int = 8

    def step(self, state: TurboState, batch: Batch) -> float:
        """See `Engine.step`."""
        done = getattr(state, "steps_done", 0)
        first_time = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if first_time and done == self.before and int(os.environ["RANK"]) == self.victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(state, batch)
