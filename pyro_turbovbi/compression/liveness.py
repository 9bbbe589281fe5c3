"""Finds the units that a pruned network does not need.

A unit is not needed if no kept unit reads it. A unit without incoming weights outputs a constant:
what the later layers receive from it is added to their bias, then nobody reads it. Constants are
settled front to back, because one more constant may leave the next unit without incoming weights;
unread units back to front, because one unit less may leave an earlier unit unread. Dropping an
unread unit removes no incoming weight of a kept unit, so one pass of each reaches the fixed point.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor

from pyro_turbovbi.compression.chain import Link
from pyro_turbovbi.compression.layers import has_zero_padding
from pyro_turbovbi.compression.stages import Stage

FLATNESS = 1e-12
"""Relative spread below which a constant channel counts as equal at all positions."""


def settle(stages: list[Stage]) -> None:
    """Marks the needed rows and columns of all stages and folds constants into biases, in place.

    At least one unit of every layer is kept: where none is needed, the first one stays as a unit
    that is 0 before its activation and is read with weight 0. Outputs of the last stage are all
    kept.

    Args:
        stages: The stages of a chain; `rows`, `cols`, `weight` and `bias` are changed.
    """
    for stage, following in pairwise(stages):
        _fold_constants(stage, following)
    for earlier, stage in reversed(list(pairwise(stages))):
        _drop_unread(stage, earlier)
    _drop_unread(stages[0], None)


def _fold_constants(stage: Stage, following: Stage) -> None:
    """Folds the constant units of a stage into the following bias, where that is exact."""
    constant = ~(stage.weight[:, stage.cols] != 0).flatten(1).any(1)
    if constant.any():
        values = torch.where(constant, stage.bias, 0.0)
        arriving = constant_at(values, stage.link.out_shape, following.before)
        arriving = arriving.reshape(following.weight.shape[1], -1)
        exact = torch.ones_like(following.cols)
        if len(following.link.in_shape) > 1:
            exact = _foldable(arriving, has_zero_padding(following.link.layer))
        constant &= exact.reshape(-1, following.positions).all(1)
        folded = constant.repeat_interleave(following.positions)
        reading = following.weight[:, folded].sum(2)
        following.bias += reading @ arriving[folded, 0]
        following.cols &= ~folded
    stage.rows &= ~constant


def _foldable(arriving: Tensor, zero_padded: bool) -> Tensor:
    """Which constant channels, shape (channels, positions), act on a convolution like a bias."""
    silent = (arriving == 0).all(1)
    if zero_padded:
        return silent
    spread = arriving.amax(1) - arriving.amin(1)
    return silent | (spread <= FLATNESS * arriving.abs().amax(1))


def constant_at(values: Tensor, shape: tuple[int, ...], layers: list[Link]) -> Tensor:
    """Runs layers on units that are constant.

    The layers act on every channel by itself, so the other channels may hold anything.

    Args:
        values: The constants, double precision, shape (channels,).
        shape: Shape (channels, positions...) of the first layer's input, without the batch.
        layers: The layers.

    Returns:
        What comes out, without the batch dimension, in double precision.
    """
    x = values.reshape(-1, *(1 for _ in shape[1:])).expand(shape).unsqueeze(0)
    with torch.no_grad():
        for link in layers:
            x = copy.deepcopy(link.layer).double()(x)
    return x.squeeze(0)


def _drop_unread(stage: Stage, earlier: Stage | None) -> None:
    """Drops the inputs of a stage that no kept row reads, and the units they come from."""
    stage.cols &= (stage.weight[stage.rows] != 0).any(2).any(0)
    if not stage.cols.any():
        first = 0 if stage.select is None else int(stage.select[0])
        stage.cols[first] = True
        stage.weight[:, first] = 0.0
        if earlier is not None:
            unit = first // stage.positions
            earlier.weight[unit] = 0.0
            earlier.bias[unit] = 0.0
            earlier.rows[unit] = True
    if earlier is not None:
        earlier.rows &= stage.cols.reshape(-1, stage.positions).any(1)
