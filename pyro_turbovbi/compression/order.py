"""Re-orders the hidden units of a network so that its kept weights lie together.

The network computes the same: with a unit go its row of incoming weights, its bias and
normalisation, and its columns of outgoing weights. What changes is how well the support can be
stored and computed with: fewer and longer runs along the rows, fuller blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.masking import masked
from pyro_turbovbi.compression.regularity import Regularity, as_bool, regularity
from pyro_turbovbi.compression.verification import BATCH, check_inputs, verify
from pyro_turbovbi.coupling import Member, couplings, entries, put_in_order
from pyro_turbovbi.errors import ShapeError, VerificationError


@dataclass(frozen=True, eq=False)
class Reordered:
    """A network with its hidden units in another order.

    Attributes:
        net: The network in evaluation mode; it computes what the given one computes.
        masks: The masks in the new order.
        orders: Per group of units the numbers of the old units in their new order; groups that
            stayed as they were are missing.
        members: Per group what its units run along.
        before: Regularity of all masks together before.
        after: The same after.
    """

    net: nn.Module
    masks: dict[str, Tensor]
    orders: dict[str, Tensor]
    members: Mapping[str, tuple[Member, ...]]
    before: Regularity
    after: Regularity

    def arrange(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Puts more tensors of parameters' shapes, such as standard deviations, in the new order.

        Args:
            tensors: By name of the parameter.
        """
        moved = dict(tensors)
        for group, order in self.orders.items():
            along = self.members[group]
            moved = {name: permuted(name, value, along, order) for name, value in moved.items()}
        return moved

    def __repr__(self) -> str:
        """The gain in words."""
        rows = (
            ("clusters", self.before.clusters, self.after.clusters),
            ("mean length", self.before.mean_cluster_length, self.after.mean_cluster_length),
            ("8x8 block fill", self.before.block_fill, self.after.block_fill),
            ("index bits", self.before.index_bits_run_length, self.after.index_bits_run_length),
        )
        gains = ", ".join(f"{name} {old:.4g} -> {new:.4g}" for name, old, new in rows)
        return f"Reordered({len(self.orders)} groups of units; {gains})"


def reorder(net: nn.Module, masks: Mapping[str, Tensor], inputs: Tensor | None = None) -> Reordered:
    """Puts hidden units with similar weights next to each other.

    Args:
        net: The network, carrying the weights to keep; it is not touched. Any network whose forward
            method can be traced; units whose place something else depends on stay where they are.
        masks: Parameter name to mask of the parameter's shape: kept weights True or 1.
        inputs: Inputs to check on that the re-ordered network computes what it did before, shape
            (points, ...); up to 256 of them are used, besides random inputs of the same scale.
            Without inputs, nothing is checked.

    Returns:
        The re-ordered network and what was gained.

    Raises:
        UnsupportedError: If the network cannot be traced.
        VerificationError: If the re-ordered network, with its masks, deviates by more than 1e-5 of
            the largest output.
        ShapeError: If the network cannot be applied to the inputs.
        SiteError, ShapeError, InvalidArgumentError, InvalidDataError: If the masks do not fit; see
            `masked`.
    """
    pruned = masked(net, masks)
    if inputs is not None:
        check_inputs(inputs)
    weights = [name for name, p in net.named_parameters() if p.dim() > 1]
    groups = couplings(net, weights, input_dims=None if inputs is None else inputs.ndim)
    now = {name: as_bool(mask, f"the mask of {name!r}") for name, mask in masks.items()}
    new, moved = copy.deepcopy(net).eval(), dict(now)

    def move(members: tuple[Member, ...], order: Tensor) -> None:
        for key, mask in moved.items():
            moved[key] = permuted(key, mask, members, order)
        _permute_net(new, members, order)

    orders = put_in_order(groups, lambda: moved, move)
    parts = [Regularity.total(map(regularity, side.values())) for side in (now, moved)]
    if parts[1].clusters >= parts[0].clusters:
        return Reordered(copy.deepcopy(net).eval(), now, {}, {}, parts[0], parts[0])
    if inputs is not None:
        _verify(pruned, masked(new, moved), inputs)
    return Reordered(new, moved, orders, groups.members, *parts)


def _verify(before: nn.Module, after: nn.Module, inputs: Tensor) -> None:
    names = ("the network in its old order", "the network in its new order")
    try:
        verify(before, after, inputs[:BATCH], names=names)
    except VerificationError as error:
        raise VerificationError(
            "hidden units of this network cannot change places: it computes something else then",
            given=error.given,
            accepted="the network in its own order: no reorder",
        ) from error
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise ShapeError(
            f"the network cannot be applied to the inputs: {error}",
            given=f"shape {tuple(inputs.shape)}, {inputs.dtype}",
            accepted="inputs of the shape and type that the network takes",
        ) from error


def permuted(name: str, tensor: Tensor, members: Iterable[Member], order: Tensor) -> Tensor:
    """A tensor with the units of one group in a new order; itself if they do not run along it."""
    for member in members:
        if member.name == name:
            tensor = tensor.index_select(member.dim, entries(order, member).to(tensor.device))
    return tensor


@torch.no_grad()
def _permute_net(net: nn.Module, members: Iterable[Member], order: Tensor) -> None:
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    for name in {member.name: None for member in members}:
        tensors[name].copy_(permuted(name, tensors[name], members, order))


__all__ = ["Reordered", "permuted", "reorder"]
