"""M-steps of expectation maximisation for the transition probabilities, from expected counts.

Reference: L. Baum, T. Petrie, G. Soules, N. Weiss, "A maximization technique occurring in the
statistical analysis of probabilistic functions of Markov chains", Ann. Math. Statist. 41(1), 1970.
The start from the stationary law ties the initial state to the transition probabilities; its term
`-ln(p01 + p10)` is convex and is minorised by its tangent, so that every round has a closed form
and never lowers the objective.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyro_turbovbi.kernels.law import ChainLaw

_FLOOR = 1e-6
_ROUNDS = 500
_CONVERGED = 1e-12

Counts = Sequence[Sequence[float]]


def bounded(probability: float) -> float:
    """Keep an estimated probability 1e-6 away from 0 and 1, so that EM can leave the border."""
    return min(max(probability, _FLOOR), 1.0 - _FLOOR)


def maximise_chain_law(law: ChainLaw, counts: Counts, ones: float, zeros: float) -> ChainLaw:
    """Maximise the expected log-probability of stationary chains.

    Args:
        law: The law under which the counts were computed; the result is never worse.
        counts: Expected transition counts, `counts[i][j]` from i to j.
        ones: Expected number of chains that start with a one.
        zeros: Expected number of chains that start with a zero.

    Returns:
        The maximising law, both probabilities within [1e-6, 1 - 1e-6].
    """
    (n00, n01), (n10, n11) = counts
    for _ in range(_ROUNDS):
        tangent = (ones + zeros) / (law.p01 + law.p10)
        p01 = _smaller_root(tangent, n00 + n01 + ones + tangent, n01 + ones)
        p10 = _smaller_root(tangent, n11 + n10 + zeros + tangent, n10 + zeros)
        before, law = law, ChainLaw(bounded(p01), bounded(p10))
        if all(math.isclose(*pair, rel_tol=_CONVERGED) for pair in zip(before, law, strict=True)):
            break
    return law


def maximise_run(density: float, counts: Counts) -> float:
    """Mean run that maximises the expected log-probability of transitions at a density.

    Args:
        density: Stationary probability of a one, inside (0, 1).
        counts: Expected transition counts, `counts[i][j]` from i to j, not all zero.

    Returns:
        The mean run length `1 / p10`, such that both transition probabilities are within [1e-6, 1 -
        1e-6].
    """
    (n00, n01), (n10, n11) = counts
    odds = density / (1.0 - density)
    changes = n01 + n10
    linear = changes * (1.0 + odds) + n00 * odds + n11
    p10 = _smaller_root(odds * (changes + n00 + n11), linear, changes)
    return max(1.0 / max(p10, _FLOOR, _FLOOR / odds), shortest_run(density))


def shortest_run(density: float) -> float:
    """Shortest mean run that there is at a density: where all that is left of it is come back to.

    Args:
        density: Stationary probability of a one, inside (0, 1).

    Returns:
        The mean run length at which the larger transition probability is 1 - 1e-6.
    """
    return max(1.0, density / (1.0 - density)) / (1.0 - _FLOOR)


def _smaller_root(quadratic: float, linear: float, constant: float) -> float:
    """Smaller root of `quadratic x^2 - linear x + constant = 0`, without cancellation."""
    if constant == 0.0:
        return 0.0
    root = math.sqrt(max(linear * linear - 4.0 * quadratic * constant, 0.0))
    return 2.0 * constant / (linear + root)
