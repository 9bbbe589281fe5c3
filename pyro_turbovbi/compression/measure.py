"""What a network costs: multiplications, parameters, shape, time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.chain import Link
from pyro_turbovbi.compression.graph_tape import Op, Tape, contraction_factors, record
from pyro_turbovbi.compression.graph_vocabulary import CONTRACTIONS
from pyro_turbovbi.compression.layers import Role

MAX_ROUNDS = 50
MIN_ROUNDS = 5
SECONDS = 1.0
"""Timing stops after this many seconds, once the least number of rounds is done."""


class Structure(tuple[int, ...]):
    """Units per layer, inputs first and without the outputs; prints as `353-95-92`."""

    __slots__ = ()

    def __str__(self) -> str:
        return "-".join(str(units) for units in self)


def structure_of(links: Sequence[Link]) -> Structure:
    """Units per layer of a chain.

    Inputs (or input channels) that the first weighted layer reads, then the units (or channels) of
    every weighted layer but the last, and the features where channels with several positions are
    flattened.

    Args:
        links: The chain.

    Returns:
        The numbers of units in the order of the computation.
    """
    units: list[int] = []
    merged = False
    for link in links:
        merged = merged or (link.merges_positions and math.prod(link.in_shape[1:]) > 1)
        if link.role is not Role.WEIGHTED:
            continue
        if merged or not units:
            units.append(link.in_shape[0])
        units.append(link.out_shape[0])
        merged = False
    return Structure(units[:-1])


def flops_of(net: nn.Module, example: Tensor) -> int:
    """Floating-point operations of the convolutions and matrix products for one input.

    Args:
        net: A network; it is not touched.
        example: An input batch, shape (batch, ...).

    Returns:
        Two for every multiply-accumulate, attention's products among tokens included; biases,
        activations, norms, pools and the steps inside recurrent layers are not counted.
    """
    tape = record(net, example[:1])
    return sum(2 * _products(tape, op) for op in tape.ops if op.kind in CONTRACTIONS)


def _products(tape: Tape, op: Op) -> int:
    """Multiply-accumulates of a convolution or matrix product."""
    first, second = (tape.values[n].shape for n in contraction_factors(op))
    out = tape.values[op.output].shape
    if op.kind is torch.ops.aten.convolution:
        transposed = bool(op.args[6])
        return (first if transposed else out).numel() * second[1:].numel()
    return out.numel() * first[-1]


def parameters_of(net: nn.Module) -> int:
    """Number of entries of all parameters, zeros included.

    Args:
        net: A network.

    Returns:
        The number; shared parameters count once.
    """
    return sum(parameter.numel() for parameter in net.parameters())


def latency_of(nets: Sequence[nn.Module], inputs: Tensor) -> list[float]:
    """Measured time of one batch through each network.

    Args:
        nets: Networks in evaluation mode.
        inputs: One batch.

    Returns:
        Median wall-clock seconds of each network; see `timings_of`.
    """
    return [statistics.median(times) for times in timings_of(nets, inputs)]


def timings_of(nets: Sequence[nn.Module], inputs: Tensor) -> list[list[float]]:
    """Measured times of one batch through each network, again and again.

    The networks take turns, so that a busy machine slows all of them alike.

    Args:
        nets: Networks in evaluation mode.
        inputs: One batch.

    Returns:
        Of each network, the wall-clock seconds in every round.
    """
    times: list[list[float]] = [[] for _ in nets]
    with torch.inference_mode():
        for net in nets:
            _timed(net, inputs)
        end = time.perf_counter() + SECONDS
        for done in range(MAX_ROUNDS):
            if done >= MIN_ROUNDS and time.perf_counter() > end:
                break
            for net, record in zip(nets, times, strict=True):
                record.append(_timed(net, inputs))
    return times


def _timed(net: nn.Module, inputs: Tensor) -> float:
    batch = inputs.clone()  # a layer of the user's may write into its input
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    start = time.perf_counter()
    net(batch)
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - start
