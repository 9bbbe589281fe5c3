"""A chain cut at its weight matrices: the working view in which units are found dead.

Stage j is a weighted layer together with the layers in front of it. All weights and biases are held
in double precision, so that folding constants into biases loses nothing before the final rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_turbovbi.compression.chain import Link
from pyro_turbovbi.compression.layers import Role
from pyro_turbovbi.errors import UnsupportedError


@dataclass(eq=False)
class Stage:
    """A weighted layer, the layers in front of it, and which of its rows and columns are kept.

    Attributes:
        link: The weighted layer.
        before: The layers between the weighted layer before (or the input) and this one.
        weight: Double precision, shape (units out, units in, taps); taps is 1 for a linear layer.
        bias: Double precision, shape (units out,); zeros if the layer has none.
        rows: Kept output units, boolean, shape (units out,).
        cols: Kept input units, boolean, shape (units in,).
        select: Of a layer behind an `InputSelect`, as cutting leaves one, the input units that it
            is given, int64: the selection is made anew, and the weight has zeros for the others.
    """

    link: Link
    before: list[Link]
    weight: Tensor
    bias: Tensor
    rows: Tensor
    cols: Tensor
    select: Tensor | None = None

    @property
    def own_cols(self) -> Tensor:
        """Kept ones of the columns that the layer's own weight has."""
        return self.cols if self.select is None else self.cols[self.select]

    @property
    def merge(self) -> int | None:
        """Index in `before` of the layer that merges channels and positions, if there is one."""
        return next((i for i, link in enumerate(self.before) if link.merges_positions), None)

    @property
    def positions(self) -> int:
        """Number of input units that each unit of the layer before turns into."""
        return 1 if self.merge is None else math.prod(self.before[self.merge].in_shape[1:])


def stages_of(links: list[Link]) -> tuple[list[Stage], list[Link]]:
    """Cuts a chain into stages.

    Args:
        links: The chain.

    Returns:
        The stages, and the layers behind the last weighted one.

    Raises:
        UnsupportedError: If there is no weighted layer, or units are mixed between two of them.
    """
    stages: list[Stage] = []
    before: list[Link] = []
    for link in links:
        if link.role is Role.WEIGHTED:
            stages.append(_stage(link, before))
            before = []
        else:
            before.append(link)
    if not stages:
        raise UnsupportedError(
            "the network has no weight matrix to cut",
            given=[type(link.layer).__name__ for link in links],
            accepted="at least one Linear, Conv1d or Conv2d",
        )
    return stages, before


def _stage(link: Link, before: list[Link]) -> Stage:
    selection = _selection_in(before)
    before = [other for other in before if other is not selection]
    for mixed in before:
        if mixed.role in (Role.JOINT, Role.SELECT):
            raise UnsupportedError(
                f"'{mixed.name}' ({type(mixed.layer).__name__}) mixes or selects units in front of "
                f"weighted layer '{link.name}'",
                accepted="such a layer only behind the last weighted layer",
            )
    weight = link.layer.get_parameter("weight").detach().double()
    # Adding zero copies, and turns -0.0 (a negative weight times a mask) into a plain, cheap zero.
    weight = weight.reshape(weight.shape[0], weight.shape[1], -1) + 0.0
    select: Tensor | None = None
    if selection is not None:
        select = selection.layer.get_buffer("indices")
        own, units = weight, selection.in_shape[0]
        weight = own.new_zeros(own.shape[0], units, own.shape[2]).index_copy(1, select, own)
    given = link.layer.bias
    bias = weight.new_zeros(weight.shape[0])
    if isinstance(given, Tensor):
        bias += given.detach()
    rows, cols = (torch.ones(n, dtype=torch.bool, device=weight.device) for n in weight.shape[:2])
    return Stage(link, before, weight, bias, rows, cols, select)


def _selection_in(before: list[Link]) -> Link | None:
    """A selection behind which nothing minds how many units there are."""
    for link in reversed(before):
        if link.role is Role.SELECT:
            return link
        alike = link.role in (Role.CHANNELWISE, Role.NOTHING) and not link.layer.state_dict()
        if not alike and (link.role is not Role.RESHAPE or link.merges_positions):
            return None
    return None
