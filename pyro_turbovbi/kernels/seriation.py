"""An order of units in which those with similar weights are neighbours.

Hidden units have no order of their own, but what is stored and computed along them does: runs of
kept weights along the rows of the next layer, blocks, bits of a run-length code. For units with
features `f_u` (which weights they keep), the number of runs over all features is

    runs = 1/2 (|f_first| + sum_i |f_i xor f_{i+1}| + |f_last|)

so the best order is a shortest tour through all units and an empty one: the travelling salesman's
problem, solved here well enough by a greedy tour and improving exchanges.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError

#: Above this number of units the exchanges are left out: they take quadratic time each.
MAX_UNITS_IMPROVED = 1000


def seriate(features: Tensor) -> Int64[Tensor, " units"]:
    """Order units so that the runs along them are few.

    Args:
        features: Zeros and ones, or booleans, `[units, features]`: which weights each unit keeps.

    Returns:
        Permutation: the numbers of the units in their new order. Never more runs than in the given
        order, which is kept where nothing better was found.

    Raises:
        InvalidArgumentError: if `features` is no matrix.

    References: reversing a part of a tour: G. A. Croes, "A method for solving traveling-salesman
    problems", Operations Research 6, 1958.
    """
    if features.ndim != 2:
        raise InvalidArgumentError(
            "features of units are no matrix",
            given=f"shape {tuple(features.shape)}",
            accepted="shape (units, features)",
        )
    units = features.shape[0]
    identity = torch.arange(units)
    if units < 3:
        return identity
    distance = _distances(features.detach().cpu())
    tours = [_nearest_neighbours(distance)]
    if units <= MAX_UNITS_IMPROVED:
        tours = [_improved(tour, distance) for tour in (*tours, identity)]
    best = min(tours, key=lambda tour: length(tour, distance))
    return best if length(best, distance) < length(identity, distance) else identity


def runs(features: Tensor) -> int:
    """Number of maximal runs of ones along the units, over all features.

    Args:
        features: Zeros and ones, or booleans, `[units, features]`.
    """
    bits = torch.nn.functional.pad(features.to(torch.int8), (0, 0, 1, 0))
    return int((bits.diff(dim=0) > 0).sum())


def length(tour: Tensor, distance: Tensor) -> float:
    """Length of the closed tour from the empty unit (the last one) through all others.

    Args:
        tour: Numbers of the units `[units]`.
        distance: `[units + 1, units + 1]`.
    """
    closed = torch.nn.functional.pad(tour, (1, 1), value=distance.shape[0] - 1)
    return float(distance[closed[:-1], closed[1:]].sum())


def _distances(features: Tensor) -> Float[Tensor, "nodes nodes"]:
    """Numbers of features in which two units differ; the last unit is the empty one."""
    bits = torch.nn.functional.pad(features.float(), (0, 0, 0, 1))
    counts = bits.sum(1)
    return counts[:, None] + counts - 2.0 * bits @ bits.T


def _nearest_neighbours(distance: Tensor) -> Tensor:
    """From the empty unit always on to the nearest one that is left."""
    left = distance.clone()
    left.fill_diagonal_(torch.inf)
    here, tour = distance.shape[0] - 1, []
    for _ in range(here):
        left[:, here] = torch.inf
        here = int(left[here].argmin())
        tour.append(here)
    return torch.tensor(tour)


def _improved(tour: Tensor, distance: Tensor) -> Tensor:
    """Reverse parts of the tour while that makes it shorter, always the best part first.

    Reversing the units i..j exchanges two edges of the tour for two others:
    (i-1, i) and (j, j+1) for (i-1, j) and (i, j+1).
    """
    empty = distance.shape[0] - 1
    for _ in range(4 * empty):
        closed = torch.nn.functional.pad(tour, (1, 1), value=empty)
        before, inside, after = closed[:-2], closed[1:-1], closed[2:]
        old = distance[before, inside][:, None] + distance[inside, after]
        new = distance[before][:, inside] + distance[inside][:, after]
        gain = (old - new).triu(1)
        best = int(gain.argmax())
        if float(gain.view(-1)[best]) <= 0.0:
            break
        first, last = divmod(best, empty)
        tour = torch.cat([tour[:first], tour[first : last + 1].flip(0), tour[last + 1 :]])
    return tour


__all__ = ["length", "runs", "seriate"]
