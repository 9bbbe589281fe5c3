"""The closed list of layers that a compressed network may consist of.

One table answers every question about a layer type: how to rebuild it from a few plain numbers, and
what role it plays when units are cut. Tracing, cutting and the file format all read this table, so
a new layer is one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from pyro_turbovbi.errors import ArtifactError, UnsupportedError

Config = dict[str, object]
"""Constructor arguments of a layer: numbers, strings, booleans, None and lists of them."""


class Role(Enum):
    """What a layer does to the units that flow through it."""

    WEIGHTED = "mixes units through a weight matrix"
    CHANNELWISE = "acts on every unit by itself"
    RESHAPE = "merges the channels and positions of an image into one row of units"
    SELECT = "keeps some of the units"
    NOTHING = "does nothing in evaluation mode"
    JOINT = "mixes all units, without weights"


class InputSelect(nn.Module):
    """Keeps some input units (features or channels) and drops the others.

    Args:
        size: Number of units before.
        count: Number of units after.

    Attributes:
        indices: The kept units in increasing order, int64, shape (count,).
    """

    indices: Tensor

    def __init__(self, size: int, count: int) -> None:
        super().__init__()
        self.size = size
        self.count = count
        self.register_buffer("indices", torch.arange(count))

    @classmethod
    def of(cls, keep: Tensor) -> InputSelect:
        """The layer that keeps the marked units.

        Args:
            keep: Boolean, shape (size,).

        Returns:
            The layer, on the device of `keep`.
        """
        indices = keep.nonzero().flatten()
        layer = cls(keep.numel(), indices.numel())
        layer.indices = indices
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the chosen units.

        Args:
            x: Shape (batch, size, ...).

        Returns:
            The kept units, shape (batch, count, ...).
        """
        return x.index_select(1, self.indices)

    def extra_repr(self) -> str:
        """Units before and after."""
        return f"size={self.size}, count={self.count}"


@dataclass(frozen=True)
class LayerType:
    """One line of the table.

    Attributes:
        cls: The class; a subclass is another layer and not accepted in its place.
        role: What it does to units.
        arguments: Names of constructor arguments that are attributes of the same name.
        dims: Number of dimensions of its input, batch included; None if any.
    """

    cls: type[nn.Module]
    role: Role
    arguments: tuple[str, ...] = ()
    dims: int | None = None

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of all constructor arguments that `config_of` gives."""
        return (*self.arguments, "bias") if self.role is Role.WEIGHTED else self.arguments


_CONV = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "padding_mode",
)
_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_NORM = ("num_features", "eps", "momentum", "affine")
_EACH = Role.CHANNELWISE

_TYPES = (
    LayerType(nn.Linear, Role.WEIGHTED, ("in_features", "out_features"), 2),
    LayerType(nn.Conv1d, Role.WEIGHTED, _CONV, 3),
    LayerType(nn.Conv2d, Role.WEIGHTED, _CONV, 4),
    LayerType(nn.BatchNorm1d, _EACH, _NORM),
    LayerType(nn.BatchNorm2d, _EACH, _NORM, 4),
    LayerType(nn.MaxPool1d, _EACH, _MAX_POOL, 3),
    LayerType(nn.MaxPool2d, _EACH, _MAX_POOL, 4),
    LayerType(nn.AvgPool1d, _EACH, _AVG_POOL, 3),
    LayerType(nn.AvgPool2d, _EACH, (*_AVG_POOL, "divisor_override"), 4),
    LayerType(nn.AdaptiveAvgPool1d, _EACH, ("output_size",), 3),
    LayerType(nn.AdaptiveAvgPool2d, _EACH, ("output_size",), 4),
    LayerType(nn.Flatten, Role.RESHAPE, ("start_dim", "end_dim")),
    LayerType(InputSelect, Role.SELECT, ("size", "count")),
    LayerType(nn.Identity, Role.NOTHING),
    LayerType(nn.Dropout, Role.NOTHING),
    LayerType(nn.Dropout1d, Role.NOTHING),
    LayerType(nn.Dropout2d, Role.NOTHING),
    LayerType(nn.AlphaDropout, Role.NOTHING),
    LayerType(nn.Softmax, Role.JOINT, ("dim",)),
    LayerType(nn.LogSoftmax, Role.JOINT, ("dim",)),
    LayerType(nn.PReLU, _EACH, ("num_parameters",)),
    LayerType(nn.ReLU, _EACH),
    LayerType(nn.ReLU6, _EACH),
    LayerType(nn.LeakyReLU, _EACH, ("negative_slope",)),
    LayerType(nn.ELU, _EACH, ("alpha",)),
    LayerType(nn.CELU, _EACH, ("alpha",)),
    LayerType(nn.SELU, _EACH),
    LayerType(nn.GELU, _EACH, ("approximate",)),
    LayerType(nn.SiLU, _EACH),
    LayerType(nn.Mish, _EACH),
    LayerType(nn.Softplus, _EACH, ("beta", "threshold")),
    LayerType(nn.Softsign, _EACH),
    LayerType(nn.Tanh, _EACH),
    LayerType(nn.Tanhshrink, _EACH),
    LayerType(nn.Hardtanh, _EACH, ("min_val", "max_val")),
    LayerType(nn.Sigmoid, _EACH),
    LayerType(nn.LogSigmoid, _EACH),
    LayerType(nn.Hardsigmoid, _EACH),
    LayerType(nn.Hardswish, _EACH),
    LayerType(nn.Hardshrink, _EACH, ("lambd",)),
    LayerType(nn.Softshrink, _EACH, ("lambd",)),
    LayerType(nn.Threshold, _EACH, ("threshold", "value")),
)

LAYERS: Mapping[type[nn.Module], LayerType] = {line.cls: line for line in _TYPES}
"""The table by class."""

LAYERS_BY_NAME: Mapping[str, LayerType] = {line.cls.__name__: line for line in _TYPES}
"""The table by class name, as files refer to it."""


def role_of(layer: nn.Module) -> Role:
    """The role of a layer.

    Args:
        layer: A layer of a listed type.

    Returns:
        What it does to units.
    """
    return LAYERS[type(layer)].role


def is_elementwise(layer: nn.Module) -> bool:
    """Whether a layer does the same to every single value, whatever its unit.

    Args:
        layer: Any module.
    """
    line = LAYERS.get(type(layer))
    if line is None or line.role is not Role.CHANNELWISE or line.dims is not None:
        return False
    return not isinstance(layer, nn.BatchNorm1d | nn.PReLU)


def config_of(layer: nn.Module) -> Config:
    """The constructor arguments that rebuild a layer.

    Args:
        layer: A layer of a listed type.

    Returns:
        Plain numbers, strings, booleans, None and lists, ready for JSON.
    """
    config: Config = {name: _plain(getattr(layer, name)) for name in LAYERS[type(layer)].arguments}
    if role_of(layer) is Role.WEIGHTED:
        config["bias"] = layer.bias is not None
    return config


def rebuild(
    cls: type[nn.Module], config: Mapping[str, object], state: Mapping[str, Tensor]
) -> nn.Module:
    """Builds a layer from its configuration and tensors.

    Nothing is initialised, so the global random generator is not touched.

    Args:
        cls: A listed type.
        config: Its constructor arguments, as from `config_of`.
        state: Its `state_dict`; the tensors become the layer's own, without a copy.

    Returns:
        The layer in evaluation mode.

    Raises:
        RuntimeError: If the tensors do not fit the configuration.
        TypeError: If the configuration is not one of this type.
    """
    layer = blank(cls, config)
    layer.load_state_dict(dict(state), strict=True, assign=True)
    return layer.eval()


def blank(cls: type[nn.Module], config: Mapping[str, object]) -> nn.Module:
    """Builds a layer without memory for its tensors: their shapes alone.

    Args:
        cls: A listed type.
        config: Its constructor arguments, as from `config_of`.

    Returns:
        The layer on torch's `meta` device.

    Raises:
        TypeError: If the configuration is not one of this type.
    """
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items()}
    with torch.device("meta"):
        return cls(**arguments)


def listed_type(name: object, config: object) -> type[nn.Module]:
    """The class of a layer that a file describes.

    Args:
        name: The class name in the file.
        config: The constructor arguments in the file.

    Returns:
        A class of the list, whose arguments have the names that are given.

    Raises:
        ArtifactError: If there is no such layer, or its arguments have other names.
    """
    if not isinstance(name, str) or name not in LAYERS_BY_NAME:
        raise ArtifactError(
            "the file has an unknown layer type", given=name, accepted=LAYERS_BY_NAME
        )
    line = LAYERS_BY_NAME[name]
    if not isinstance(config, dict) or set(config) != set(line.settings):
        raise ArtifactError(
            f"the file has a {name} with the wrong settings", given=config, accepted=line.settings
        )
    return line.cls


def has_zero_padding(layer: nn.Module) -> bool:
    """Whether a convolution sees zeros beyond the border of its input.

    Args:
        layer: A weighted layer.

    Returns:
        False for a linear layer, an unpadded convolution, or padding that repeats the input's own
        values.
    """
    if not isinstance(layer, nn.Conv1d | nn.Conv2d) or layer.padding_mode != "zeros":
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same" and any(size > 1 for size in layer.kernel_size)
    return any(size > 0 for size in layer.padding)


def check_layer(layer: nn.Module, where: str) -> None:
    """Refuses a layer that is not listed, or a listed one with a setting that cannot be handled.

    Args:
        layer: Any module.
        where: Its name in the network, for the message.

    Raises:
        UnsupportedError: If the layer cannot be part of a compressed network.
    """
    kind = f"layer '{where}' ({type(layer).__name__})"
    if type(layer) not in LAYERS:
        raise UnsupportedError(f"{kind} cannot be compressed", accepted=accepted_layers())
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise UnsupportedError(f"{kind} has forward hooks", accepted="layers without hooks")
    if getattr(layer, "groups", 1) != 1:
        raise UnsupportedError(
            f"{kind} is grouped", given=f"groups={layer.groups}", accepted="groups=1"
        )
    if getattr(layer, "return_indices", False):
        raise UnsupportedError(f"{kind} returns indices", accepted="return_indices=False")
    if "num_features" in LAYERS[type(layer)].arguments and layer.running_mean is None:
        raise UnsupportedError(
            f"{kind} has no running statistics", accepted="track_running_stats=True"
        )


def accepted_layers() -> str:
    """The names of all listed layers for an error message."""
    return "a chain of " + ", ".join(sorted(LAYERS_BY_NAME))


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
