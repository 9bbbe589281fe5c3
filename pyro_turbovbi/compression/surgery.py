"""Makes the tensors of a network's own modules narrower; class and forward method stay."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pyro_turbovbi._tensors import named_tensors, replace_tensor
from pyro_turbovbi.errors import ShapeError

Kept = tuple[Tensor | None, ...]
"""For every dim of a tensor the kept places in increasing order, int64; None: all of them."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class Surgery:
    """What was cut out of a network.

    It can be repeated on another instance of the same class, which then has the shapes of the cut
    network: `surgery.apply(MyNet())` takes the `state_dict` of the cut network.

    Attributes:
        kept: Name of a parameter or buffer to the kept places along each of its dims; what is not
            named keeps its shape. Shared tensors are named once, by their first name.
        attributes: Dotted names of plain integer attributes of modules (numbers of heads, of
            groups) to their new values.
        biases: Names of biases that layers without one were given, to take a folded constant.
    """

    kept: dict[str, Kept]
    attributes: dict[str, int] = field(default_factory=dict)
    biases: tuple[str, ...] = ()

    def apply(self, net: nn.Module) -> nn.Module:
        """Cuts a copy of a network.

        Args:
            net: A network with the tensors that `kept` names; it is not touched.

        Returns:
            A deep copy in evaluation mode with narrower tensors; added biases are zero.

        Raises:
            ShapeError: If the network does not have a tensor that is to be cut, or it is too small.
        """
        result = copy.deepcopy(net).eval()
        for name in self.biases:
            _add_bias(result, name)
        for name, kept in self.kept.items():
            _narrow(result, name, kept)
        for name, value in self.attributes.items():
            path, _, attribute = name.rpartition(".")
            setattr(result.get_submodule(path), attribute, value)
        for module in result.modules():
            _resize(module)
        return result


def _add_bias(net: nn.Module, name: str) -> None:
    path, _, attribute = name.rpartition(".")
    layer = net.get_submodule(path)
    weight = layer.get_parameter("weight")
    if getattr(layer, attribute) is None:
        bias = weight.detach().new_zeros(weight.shape[0])
        setattr(layer, attribute, nn.Parameter(bias, requires_grad=weight.requires_grad))


def _narrow(net: nn.Module, name: str, kept: Kept) -> None:
    """Replaces a tensor under all its names by its kept part."""
    named = named_tensors(net)
    if name not in named or named[name].ndim != len(kept):
        raise ShapeError(
            "the network does not have a tensor that is to be cut",
            given=f"'{name}' with {len(kept)} dims",
            accepted=named,
        )
    old = named[name]
    for dim, places in enumerate(kept):
        if places is not None and int(places.max()) >= old.shape[dim]:
            raise ShapeError(
                f"'{name}' is too small to be cut",
                given=f"size {old.shape[dim]} along dim {dim}",
                accepted=f"more than {int(places.max())}",
            )
    replace_tensor(net, name, narrowed(old.detach(), kept))


def narrowed(tensor: Tensor, kept: Kept) -> Tensor:
    """The kept part of a tensor.

    Args:
        tensor: Any shape.
        kept: The kept places along each of its dims.

    Returns:
        A copy.
    """
    for dim, places in enumerate(kept):
        if places is not None:
            tensor = tensor.index_select(dim, places.to(tensor.device))
    return tensor.clone()


def _resize(module: nn.Module) -> None:
    """Makes the numbers that a layer of torch keeps about its shapes agree with its tensors."""
    sizes: Mapping[str, int] = {}
    if isinstance(module, nn.Linear):
        sizes = {"out_features": module.weight.shape[0], "in_features": module.weight.shape[1]}
    elif isinstance(module, _CONVOLUTIONS):
        rows, columns = module.weight.shape[:2]
        sizes = {"out_channels": rows, "in_channels": columns * module.groups}
    elif isinstance(module, _TRANSPOSED):
        columns, rows = module.weight.shape[:2]
        sizes = {"out_channels": rows * module.groups, "in_channels": columns}
    elif isinstance(module, _BATCH_NORMS):
        held = module.running_mean if module.running_mean is not None else module.weight
        sizes = {} if held is None else {"num_features": held.shape[0]}
    elif isinstance(module, nn.Embedding):
        entries, features = module.weight.shape
        sizes = {"num_embeddings": entries, "embedding_dim": features}
    elif isinstance(module, nn.PReLU):
        sizes = {"num_parameters": module.weight.shape[0]}
    for name, size in sizes.items():
        if getattr(module, name) != size:
            setattr(module, name, int(size))


def kept_places(keep: list[bool]) -> Tensor | None:
    """Marks as places.

    Args:
        keep: Whether each place along a dim is kept.

    Returns:
        The kept places, int64; None if all are kept.
    """
    return None if all(keep) else torch.tensor(keep).nonzero().flatten()


__all__ = ["Kept", "Surgery", "kept_places", "narrowed"]
