"""A small network as the report sees it: from `Fit.compress`, or from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression import Compressed
from pyro_turbovbi.compression.artifact import read
from pyro_turbovbi.compression.chain import chain_of
from pyro_turbovbi.compression.measure import flops_of, latency_of, parameters_of, structure_of
from pyro_turbovbi.compression.verification import BATCH
from pyro_turbovbi.errors import ShapeError, UnsupportedError
from pyro_turbovbi.persistence.files import read as read_bytes
from pyro_turbovbi.result import Fit


@dataclass(frozen=True)
class Costs:
    """What a network costs.

    Attributes:
        parameters: Entries of all its parameters, zeros included.
        bytes: Of its file; of an uncut network, of its parameters and buffers.
        flops: Operations for one input; None if they were not counted.
        latency: Seconds of one batch; None if not measured.
    """

    parameters: int
    bytes: int
    flops: int | None = None
    latency: float | None = None


@dataclass(frozen=True, eq=False)
class SmallNetwork:
    """A network that was cut, and what that gained.

    Attributes:
        module: The network.
        before: What the original costs.
        after: What it costs itself.
        masks: Which weights are left, by name of the original parameter where that is known;
            shapes of the small network.
        coding: `"plain"`: its file holds every value exactly; `"compact"`: weights are rounded.
        batch: Inputs in the batch that was timed; None if none was.
        units: Units of the layers, before and after, in words; None if it is no chain of layers.
    """

    module: nn.Module
    before: Costs
    after: Costs
    masks: Mapping[str, Tensor]
    coding: str
    batch: int | None = None
    units: tuple[str, str] | None = None

    @property
    def kept(self) -> int:
        """Weights that are left."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @classmethod
    def of(cls, compressed: Compressed) -> SmallNetwork:
        """The network that `Fit.compress` gave, with what was measured then."""
        report = compressed.report
        return cls(
            compressed.module,
            Costs(
                report.parameters_dense,
                report.bytes_dense,
                report.flops_dense,
                report.latency_dense,
            ),
            Costs(report.parameters, report.bytes, report.flops, report.latency),
            compressed.masks,
            report.coding,
            None if report.latency is None else report.latency_batch,
            (str(report.structure_dense), str(report.structure)),
        )

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], fit: Fit, inputs: Tensor | None = None
    ) -> SmallNetwork:
        """A network that `Compressed.save` wrote, measured anew.

        Args:
            path: The file.
            fit: The fit that it was made from.
            inputs: Inputs to count operations with and to time a batch of, shape [points, ...];
                None: neither.

        Raises:
            StorageError: If the file cannot be read.
            ArtifactError: If it is damaged, of an unknown version, or not one of ours.
            ShapeError: If it is not from this fit.
            UnsupportedError: If reading it needs a package that is not installed.
        """
        content = read_bytes(path)
        stored = read(content)
        dense = fit.mean_net().cpu()
        small = stored.module if stored.module is not None else stored.assembled(dense)
        example = None if inputs is None else inputs[:BATCH].cpu()
        before, after = _costs([dense, small], example)
        return cls(
            small,
            Costs(before.parameters, _bytes(dense), before.flops, before.latency),
            Costs(after.parameters, len(content), after.flops, after.latency),
            _masks(fit, small),
            stored.coding,
            None if example is None else len(example),
            _units(dense, small, example),
        )


def _costs(nets: list[nn.Module], example: Tensor | None) -> list[Costs]:
    """Costs of networks, without the bytes."""
    if example is None:
        return [Costs(parameters_of(net), 0) for net in nets]
    times = latency_of(nets, example)
    return [
        Costs(parameters_of(net), 0, flops_of(net, example), seconds)
        for net, seconds in zip(nets, times, strict=True)
    ]


def _bytes(net: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in net.state_dict().values())


def _masks(fit: Fit, small: nn.Module) -> dict[str, Tensor]:
    """The weights that are not zero; in a file layers are numbered anew, in the same order."""
    with torch.no_grad():
        left = {name: p != 0 for name, p in small.named_parameters() if p.dim() > 1}
    sites = fit.bnn.sites
    if set(sites) <= set(left):
        return {name: left[name] for name in sites}
    ranks = [len(site.shape) for site in sites.values()]
    if ranks == [mask.dim() for mask in left.values()]:
        return dict(zip(sites, left.values(), strict=True))
    return left


def _units(dense: nn.Module, small: nn.Module, example: Tensor | None) -> tuple[str, str] | None:
    if example is None:
        return None
    try:
        before, after = (structure_of(chain_of(net, example)) for net in (dense, small))
    except (ShapeError, UnsupportedError):
        return None
    return str(before), str(after)


__all__ = ["Costs", "SmallNetwork"]
