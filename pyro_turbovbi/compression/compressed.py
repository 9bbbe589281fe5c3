"""Compress a network: cut it, check that it computes the same, measure what was gained."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pyro_turbovbi.batches import Data, as_tensors
from pyro_turbovbi.compression.acceleration import accelerate
from pyro_turbovbi.compression.artifact import save, serialise
from pyro_turbovbi.compression.cutting import bytes_of, cut_any, structures
from pyro_turbovbi.compression.export import OPSET, exported, write_onnx
from pyro_turbovbi.compression.graph import GraphCut
from pyro_turbovbi.compression.masking import masked
from pyro_turbovbi.compression.measure import (
    flops_of,
    latency_of,
    parameters_of,
)
from pyro_turbovbi.compression.quantisation import Loss, Quantisation, loss_on, search
from pyro_turbovbi.compression.regularity import Regularity, as_bool, regularity
from pyro_turbovbi.compression.report import CompressionReport
from pyro_turbovbi.compression.shrink import Cut
from pyro_turbovbi.compression.surgery import Surgery
from pyro_turbovbi.compression.verification import (
    BATCH,
    check_inputs,
    check_scales,
    largest_deviation,
    verify,
)
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    UnsupportedError,
)
from pyro_turbovbi.likelihoods import Likelihood

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True, eq=False, repr=False)
class Compressed:
    """A network that was cut down to what its masks keep.

    Attributes:
        module: The smaller network: plain torch layers in evaluation mode.
        report: What was gained.
        masks: What is left of the masks: original parameter name to boolean tensor of the cut
            parameter's shape.
        names: Original parameter name to its name in `module`, for those in `masks` that have
            another name there.
        scales: Posterior standard deviations by parameter name of `module`, shapes as the
            parameters'; zero where a weight is zero. Empty if none were given.
        quantisation: How `quantise` rounded the weights; None if they are as they were fitted.
        surgery: What was cut out of a network that is no chain of layers, to be repeated on another
            instance of its class; None for a chain.
        example: Some of the inputs that the network was checked on.
        masks_before: The masks before the cut: original parameter name to boolean tensor of the
            original parameter's shape.
        likelihood: What the outputs mean, with the noise that belongs to them; None where
            `compress` was not told.
        ordinary: Of a result of `accelerate`, the network with its ordinary layers, which is what
            is saved, exported and quantised; None for others.
    """

    module: nn.Module
    report: CompressionReport
    masks: dict[str, Tensor]
    names: dict[str, str] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)
    quantisation: Quantisation | None = None
    surgery: Surgery | None = None
    example: Tensor | None = None
    masks_before: dict[str, Tensor] = field(default_factory=dict)
    likelihood: Likelihood | None = None
    ordinary: nn.Module | None = None

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        coding: str | None = None,
        uncertainty: bool = False,
    ) -> int:
        """Saves the network to one file, all or nothing; `load` reads it back bit for bit.

        Of a network that is no chain of layers the file holds the tensors and what was cut:
        `load(path, net=MyNet())` needs an uncut instance of its class.

        Args:
            path: Where to write.
            coding: `"plain"` (safetensors; readable without further packages) or `"compact"`
                (entropy coded; needs the extra `compress` in writing and reading). Default: compact
                for a quantised network, plain for others.
            uncertainty: Whether the standard deviations travel along, for `load_posterior`, and the
                likelihood with its noise, if it is one of this package.

        Returns:
            The number of bytes.

        Raises:
            UnsupportedError: If the coding needs a package that is not installed.
            InvalidArgumentError: If the coding is unknown, or there are no standard deviations.
            StorageError: If the file cannot be written.
        """
        if uncertainty and not self.scales:
            raise InvalidArgumentError(
                "there are no standard deviations to save",
                accepted="uncertainty=False, or a posterior that has them (`compress(scales=...)`)",
            )
        return save(
            self.with_ordinary_layers().module,
            path,
            coding=coding or ("plain" if self.quantisation is None else "compact"),
            steps=None if self.quantisation is None else self.quantisation.steps,
            scales=self.scales if uncertainty else None,
            surgery=self.surgery,
            likelihood=self.likelihood if uncertainty else None,
        )

    def export(self) -> torch.export.ExportedProgram:
        """The network as a graph of torch's operators, for batches of any size.

        Returns:
            The program; `torch.export.save` writes it.

        Raises:
            UnsupportedError: If torch cannot export the network.
        """
        return exported(self.with_ordinary_layers().module, self._example())

    def to_onnx(
        self, path: str | os.PathLike[str], *, opset: int = OPSET, check: bool = True
    ) -> str:
        """Writes the network as an ONNX file for batches of any size.

        Args:
            path: Where to write.
            opset: Version of ONNX's operators.
            check: Whether to run the file in ONNX Runtime and compare, for batches of several
                sizes.

        Returns:
            The path.

        Raises:
            UnsupportedError: If the extra `onnx` is not installed, or the network cannot be
                exported, or not to that version of the operators.
            StorageError: If the file cannot be written.
            VerificationError: If the file computes something else by more than 1e-4 of the largest
                output.
        """
        net = self.with_ordinary_layers().module
        return write_onnx(net, self._example(), path, opset=opset, check=check)

    def accelerate(self, *, batch_size: int = BATCH) -> Compressed:
        """Chooses the fastest kernel for every linear layer, by time measured on this machine.

        What was cut is gone; this is about the zeros that are left. Only the running network
        changes: saving, exporting and quantising the result take its ordinary layers, and a loaded
        network is accelerated by `compression.accelerate`.

        Args:
            batch_size: Number of inputs that the network will be given at once.

        Returns:
            A new result, whose report says which layer uses which kernel and why. Its module
                computes the same up to rounding; where nothing is faster, it has ordinary layers.

        Raises:
            VerificationError: If the accelerated network computes something else.
            InvalidArgumentError: If the batch size is not positive.
        """
        net = self.with_ordinary_layers().module
        fast = accelerate(net, self._example(), batch_size=batch_size)
        report = replace(self.report, acceleration=fast.report)
        return replace(self, module=fast.module, report=report, ordinary=net)

    def with_ordinary_layers(self) -> Compressed:
        """The result before `accelerate`.

        Returns:
            That result, or this one if it is not accelerated.
        """
        if self.ordinary is None:
            return self
        report = replace(self.report, acceleration=None)
        return replace(self, module=self.ordinary, report=report, ordinary=None)

    def _example(self) -> Tensor:
        if self.example is None:
            raise UnsupportedError(
                "this needs inputs to run the network on", accepted="what compress returns"
            )
        return self.example

    def quantise(
        self, validation: Data, *, tolerance: float, loss: Loss | None = None
    ) -> Compressed:
        """Rounds the weights as far as the posterior and validation data allow.

        The step of every layer's grid is c times the standard deviation of its weights (see
        `quantisation`); c is the largest whose loss is within the tolerance. The module of the
        result carries the rounded weights: what is saved is what was validated. Weights that round
        to zero are gone; nothing is cut anew.

        Args:
            validation: Data (x, y) that the fit has not seen.
            tolerance: By how much the loss may grow, in its units: nats a data point by default.
            loss: Maps outputs and targets of all points to a scalar. Default: the mean negative
                log-likelihood in nats a data point; without a `likelihood` the cross entropy in
                nats for integer targets (outputs are logits), otherwise the root mean square error.
                `diagnostics.error_rate` counts errors, which on few points is a matter of luck.

        Returns:
            A new result; its report counts the bytes of the compact file, and its largest
                deviation is that from the masked network on the validation inputs.

        Raises:
            UnsupportedError: If the extra `compress` is not installed, or the network does not
                return one tensor.
            InvalidArgumentError: If the tolerance is negative, or the network has several inputs.
            InvalidDataError, ShapeError: If the targets do not fit the likelihood (without one, the
                outputs), or the loss of the exact network is not finite.
            VerificationError: If even the finest rounding costs more.
        """
        x, y = as_tensors(validation)
        if not isinstance(x, Tensor):
            raise InvalidArgumentError("quantise needs a net with one input", given=list(x))
        exact = self.with_ordinary_layers()
        loss_of = loss_on(x, y, loss, self.likelihood)
        module, how = search(exact.module, self.scales, loss_of, tolerance)
        own = {name: self.names.get(name, name) for name in self.masks}
        left = {name: module.get_parameter(own[name]).detach() != 0 for name in own}
        kept = {own[name]: mask for name, mask in left.items()}
        deviation = largest_deviation(exact.module, module, x)
        return replace(
            exact,
            module=module,
            report=_requantised(exact.report, module, how, left, deviation, self.surgery),
            masks=left,
            scales={n: s * kept[n] if n in kept else s for n, s in self.scales.items()},
            quantisation=how,
        )

    def plot_supports(self, *, before: bool = False) -> matplotlib.figure.Figure:
        """Draws which weights are left in every layer; see `diagnostics.plots.layer_supports`.

        Args:
            before: Whether to draw the masks before the cut beside them, with all rows and columns.

        Raises:
            InvalidArgumentError: If the network was cut without masks.
        """
        from pyro_turbovbi.diagnostics.plots import layer_supports

        earlier = {
            name: {"before": self.masks_before[name]} if before else {} for name in self.masks
        }
        cut = "cut" if before else ""
        return layer_supports({name: earlier[name] | {cut: m} for name, m in self.masks.items()})

    def plot_costs(self) -> matplotlib.figure.Figure:
        """Draws parameters, operations, bytes and latency in percent of the original's."""
        from pyro_turbovbi.diagnostics.cost_plots import cost_bars

        report = self.report
        costs: dict[str, tuple[float, float]] = {
            "parameters": (report.parameters_dense, report.parameters),
            "operations": (report.flops_dense, report.flops),
            f"bytes, {report.coding}": (report.bytes_dense, report.bytes),
        }
        if report.latency is not None and report.latency_dense is not None:
            costs["latency (ms)"] = (1e3 * report.latency_dense, 1e3 * report.latency)
        return cost_bars(
            {n: (float(dense), float(cut)) for n, (dense, cut) in costs.items() if dense > 0}
        )

    def _repr_html_(self) -> str:
        """The report as a table, for notebooks."""
        from pyro_turbovbi.diagnostics.notebook import compressed_table

        return compressed_table(self).to_html()

    def __repr__(self) -> str:
        """The report as a table."""
        how = self.quantisation
        quantised = (
            ""
            if how is None
            else f"\nweights in steps of {how.coarseness:.3g} posterior standard deviations: "
            f"validation loss {how.loss:.4g}, exact {how.loss_exact:.4g}"
        )
        return f"Compressed\n{self.report}{quantised}"


def compress(
    net: nn.Module,
    masks: Mapping[str, Tensor],
    inputs: Tensor,
    *,
    scales: Mapping[str, Tensor] | None = None,
    likelihood: Likelihood | None = None,
    measure_latency: bool = True,
) -> Compressed:
    """Cuts a network down to what its masks keep, and checks and measures the result.

    Args:
        net: A network with one input tensor, carrying the weights to keep; it is not touched. A
            chain of Linear, convolution, batch-norm, pooling, flatten and activation layers becomes
            a `Sequential`; any other network keeps its class and `forward` and gets narrower
            tensors.
        masks: Parameter name to mask of the parameter's shape: kept weights True or 1.
        inputs: Inputs to check and measure on, shape (points, ...); all of them are checked,
            besides random inputs of the same shape and scale.
        scales: Posterior standard deviations, parameter name to tensor of the parameter's shape:
            `Compressed.quantise` and `Compressed.save(uncertainty=True)` use them.
        likelihood: What the outputs mean: `Compressed.quantise` measures by it. It is copied.
        measure_latency: Whether to time a batch of up to 256 of the inputs through the original and
            the cut network.

    Returns:
        The smaller network and its report.

    Raises:
        VerificationError: If the cut network deviates from the masked one by more than 1e-5 of the
            largest output.
        UnsupportedError: If what the network does cannot be recorded.
        SiteError, ShapeError, InvalidArgumentError, InvalidDataError: If masks or inputs do not
            fit.
    """
    check_inputs(inputs)
    example = inputs[:BATCH]
    pruned = masked(net, masks)
    cut = cut_any(pruned, example, masks)
    left = cut.masks(masks)
    error = verify(pruned, cut.module, inputs)
    timed: Sequence[float | None] = (None, None)
    if measure_latency:
        timed = latency_of([copy.deepcopy(net).eval(), cut.module], example)
    report = _report(net, cut, masks, left, example, timed, error)
    names = {name: own for name in masks if (own := cut.name_of(name)) != name}
    check_scales(net, scales or {})
    deviations = {cut.name_of(name): s for name, s in cut.cut_like(scales or {}).items()}
    surgery = cut.surgery if isinstance(cut, GraphCut) else None
    return Compressed(
        cut.module,
        report,
        left,
        names,
        deviations,
        surgery=surgery,
        example=example.clone(),
        masks_before={name: as_bool(mask, name).clone() for name, mask in masks.items()},
        likelihood=copy.deepcopy(likelihood),
    )


def _report(
    net: nn.Module,
    cut: Cut | GraphCut,
    masks: Mapping[str, Tensor],
    left: Mapping[str, Tensor],
    example: Tensor,
    timed: Sequence[float | None],
    error: float,
) -> CompressionReport:
    before, after = structures(cut, net, example)
    by_layer = {name: regularity(mask) for name, mask in left.items()}
    return CompressionReport(
        total=sum(mask.numel() for mask in masks.values()),
        masked=sum(int(mask.sum()) for mask in masks.values()),
        kept=sum(part.kept for part in by_layer.values()),
        structure=after,
        structure_dense=before,
        regularity=by_layer,
        regularity_total=Regularity.total(by_layer.values()),
        parameters=parameters_of(cut.module),
        parameters_dense=parameters_of(net),
        flops=flops_of(cut.module, example),
        flops_dense=flops_of(net, example),
        bytes=bytes_of(cut),
        bytes_dense=sum(t.numel() * t.element_size() for t in net.state_dict().values()),
        latency=timed[1],
        latency_dense=timed[0],
        latency_batch=example.shape[0],
        max_error=error,
    )


def _requantised(
    report: CompressionReport,
    module: nn.Module,
    how: Quantisation,
    masks: Mapping[str, Tensor],
    deviation: float,
    surgery: Surgery | None,
) -> CompressionReport:
    by_layer = {name: regularity(mask) for name, mask in masks.items()}
    return replace(
        report,
        kept=sum(part.kept for part in by_layer.values()),
        regularity=by_layer,
        regularity_total=Regularity.total(by_layer.values()),
        bytes=len(serialise(module, coding="compact", steps=how.steps, surgery=surgery)),
        coding="compact",
        max_error=report.max_error + deviation,
    )
