"""Transition probabilities of stationary binary chains, and what solving many chains reports."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

SATURATION = 200.0  # nats: evidence beyond it changes no message, see `chain`


class ChainLaw(NamedTuple):
    """Transition probabilities of a stationary binary Markov chain, floats inside (0, 1).

    Attributes:
        p01: `P(s_{n+1} = 1 | s_n = 0)`.
        p10: `P(s_{n+1} = 0 | s_n = 1)`; a run of ones has mean length `1 / p10`.
    """

    p01: float
    p10: float

    @classmethod
    def stationary(cls, density: float, mean_run: float | int) -> ChainLaw:
        """The law with a given stationary probability of ones and mean length of a run of ones.

        Args:
            density: Stationary probability of a one.
            mean_run: Mean number of elements in a run of ones, at least
                `max(1, density / (1 - density))`.

        Returns:
            The law with `p10 = 1 / mean_run` and `p01 = p10 density / (1 - density)`.
        """
        p10 = 1.0 / mean_run
        return cls(p10 * density / (1.0 - density), p10)

    @property
    def p00(self) -> float:
        """`P(s_{n+1} = 0 | s_n = 0)`."""
        return 1.0 - self.p01

    @property
    def p11(self) -> float:
        """`P(s_{n+1} = 1 | s_n = 1)`."""
        return 1.0 - self.p10

    @property
    def density(self) -> float:
        """Stationary probability of a one."""
        return self.p01 / (self.p01 + self.p10)

    @property
    def log_odds(self) -> float:
        """Stationary log-odds `logit(density)`."""
        return math.log(self.p01 / self.p10)


class ChainSummary(NamedTuple):
    """What a back end reports about chains `[...]` beside their messages.

    Attributes:
        log_evidence: `[...]` in nats, or None when not asked for.
        transitions: `[..., 2, 2]`, expected counts of `s_n = i, s_{n+1} = j`, or None when not
            asked for.
        residual: Largest change of a message in nats, meaningful only when asked for.
    """

    log_evidence: Float[Tensor, "*chains"] | None
    transitions: Float[Tensor, "*chains 2 2"] | None
    residual: float
