"""Compress a network: cut it, check that it computes the same, measure what was gained."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.artifact import save, serialise
from pyro_turbovbi.compression.chain import chain_of
from pyro_turbovbi.compression.masking import masked
from pyro_turbovbi.compression.measure import (
    flops_of,
    latency_of,
    parameters_of,
    structure_of,
)
from pyro_turbovbi.compression.regularity import Regularity, regularity
from pyro_turbovbi.compression.report import CompressionReport
from pyro_turbovbi.compression.shrink import cut_masked
from pyro_turbovbi.errors import InvalidDataError, UnsupportedError, VerificationError

TOLERANCE = 1e-5
"""Accepted deviation of the cut network, relative to the largest output of the masked network."""
BATCH = 256
NOISE = 64
"""Number of random inputs that are checked besides the given ones."""


@dataclass(frozen=True, eq=False, repr=False)
class Compressed:
    """A network that was cut down to what its masks keep.

    Attributes:
        module: The smaller network: plain torch layers in evaluation mode.
        report: What was gained.
        masks: What is left of the masks: original parameter name to boolean tensor of the cut
            parameter's shape.
    """

    module: nn.Module
    report: CompressionReport
    masks: dict[str, Tensor]

    def save(self, path: str | os.PathLike[str]) -> int:
        """Saves the network to one file, all or nothing; `load` reads it back.

        Args:
            path: Where to write.

        Returns:
            The number of bytes.

        Raises:
            OSError: If the file cannot be written.
        """
        return save(self.module, path)

    def __repr__(self) -> str:
        """The report as a table."""
        return f"Compressed\n{self.report}"


def compress(
    net: nn.Module,
    masks: Mapping[str, Tensor],
    inputs: Tensor,
    *,
    measure_latency: bool = True,
) -> Compressed:
    """Cuts a network down to what its masks keep, and checks and measures the result.

    Args:
        net: A chain of Linear, convolution, batch-norm, pooling, flatten and activation layers (a
            `Sequential`, or a module whose `forward` applies one after the other), carrying the
            weights to keep; it is not touched.
        masks: Parameter name to mask of the parameter's shape: kept weights True or 1.
        inputs: Inputs to check and measure on, shape (points, ...); all of them are checked,
            besides random inputs of the same shape and scale.
        measure_latency: Whether to time a batch of up to 256 of the inputs through the original and
            the cut network.

    Returns:
        The smaller network and its report.

    Raises:
        VerificationError: If the cut network deviates from the masked one by more than 1e-5 of the
            largest output.
        UnsupportedError: If the network is not a chain of listed layers, or a mask belongs to none
            of them.
        SiteError, ShapeError, InvalidArgumentError, InvalidDataError: If masks or inputs do not
            fit.
    """
    _check_inputs(inputs)
    example = inputs[:BATCH]
    pruned = masked(net, masks)
    cut = cut_masked(pruned, example)
    left = cut.masks(masks)
    error = verify(pruned, cut.module, inputs)
    timed: Sequence[float | None] = (None, None)
    if measure_latency:
        timed = latency_of([copy.deepcopy(net).eval(), cut.module], example)
    report = _report(net, cut.module, masks, left, example, timed, error)
    return Compressed(cut.module, report, left)


def _report(
    net: nn.Module,
    cut: nn.Module,
    masks: Mapping[str, Tensor],
    left: Mapping[str, Tensor],
    example: Tensor,
    timed: Sequence[float | None],
    error: float,
) -> CompressionReport:
    before, after = chain_of(net, example), chain_of(cut, example)
    by_layer = {name: regularity(mask) for name, mask in left.items()}
    return CompressionReport(
        total=sum(mask.numel() for mask in masks.values()),
        masked=sum(int(mask.sum()) for mask in masks.values()),
        kept=sum(part.kept for part in by_layer.values()),
        structure=structure_of(after),
        structure_dense=structure_of(before),
        regularity=by_layer,
        regularity_total=Regularity.total(by_layer.values()),
        parameters=parameters_of(cut),
        parameters_dense=parameters_of(net),
        flops=flops_of(after),
        flops_dense=flops_of(before),
        bytes=len(serialise(cut)),
        bytes_dense=sum(t.numel() * t.element_size() for t in net.state_dict().values()),
        latency=timed[1],
        latency_dense=timed[0],
        latency_batch=example.shape[0],
        max_error=error,
    )


def verify(pruned: nn.Module, cut: nn.Module, inputs: Tensor) -> float:
    """Checks that two networks compute the same.

    Both run in double precision, so that the check sees wrong cuts and not the rounding of either
    network. Random inputs of the same scale are added, because given inputs may never show a
    feature that is wrongly cut.

    Args:
        pruned: The masked network in evaluation mode.
        cut: The cut network in evaluation mode.
        inputs: Shape (points, ...).

    Returns:
        The largest deviation relative to the largest output.

    Raises:
        VerificationError: If that is more than 1e-5.
    """
    noise = torch.randn(NOISE, *inputs.shape[1:], generator=torch.Generator().manual_seed(0))
    scale = inputs.double().square().mean().sqrt().clamp_min(1e-3)
    pair = [copy.deepcopy(net).double().eval() for net in (pruned, cut)]
    sizes: list[Tensor] = []
    deviations: list[Tensor] = []
    with torch.inference_mode():
        for batch in (*inputs.split(BATCH), noise.to(inputs.device) * scale):
            # A copy for each: a layer of the user's may write into its input.
            expected, actual = (net(batch.clone().double()) for net in pair)
            if expected.shape != actual.shape:
                raise VerificationError(
                    "the cut network's output has another shape than the masked network's",
                    given=str(tuple(actual.shape)),
                    accepted=str(tuple(expected.shape)),
                )
            sizes.append(expected.abs().max())
            deviations.append((expected - actual).abs().max())
    # Tensor maxima pass NaN on, so that an overflow in either network fails the check.
    largest, deviation = float(torch.stack(sizes).max()), float(torch.stack(deviations).max())
    error = deviation / largest if largest else deviation
    if not error <= TOLERANCE:
        raise VerificationError(
            "the cut network does not compute what the masked network computes",
            given=f"a deviation of {error:.2e} of the largest output",
            accepted=f"at most {TOLERANCE:g}",
        )
    return error


def _check_inputs(inputs: Tensor) -> None:
    if not inputs.is_floating_point():  # embeddings: no layer that can be cut takes integers
        raise UnsupportedError(
            "only networks that take floating-point inputs can be cut",
            given=f"inputs of {inputs.dtype}",
            accepted="a chain of layers whose first one is Linear, Conv or BatchNorm",
        )
    if inputs.ndim < 2 or inputs.shape[0] == 0:
        raise InvalidDataError(
            "compression needs a batch of inputs to check on",
            given=f"shape {tuple(inputs.shape)}",
            accepted="shape (points, ...) with at least one point",
        )
    if not bool(inputs.isfinite().all()):
        raise InvalidDataError(
            "the inputs are not finite floating-point numbers",
            given=str(inputs.dtype),
            accepted="a float tensor without NaN and infinity",
        )
