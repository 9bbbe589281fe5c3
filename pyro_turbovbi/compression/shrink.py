"""Cuts a pruned network down to the rows, columns and channels that it needs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, pairwise

from torch import Tensor, nn

from pyro_turbovbi.compression.chain import Link, chain_of
from pyro_turbovbi.compression.layers import InputSelect, Role, config_of, rebuild
from pyro_turbovbi.compression.liveness import settle
from pyro_turbovbi.compression.masking import masked
from pyro_turbovbi.compression.stages import Stage, stages_of
from pyro_turbovbi.errors import UnsupportedError


@dataclass(frozen=True, eq=False)
class Cut:
    """A cut network and where its parameters come from.

    Attributes:
        module: The smaller network in evaluation mode.
        names: Dotted module path in the original network to the layer's name in `module`.
        kept: The same path to the kept outputs and inputs of a weighted layer, two boolean vectors.
    """

    module: nn.Sequential
    names: dict[str, str]
    kept: dict[str, tuple[Tensor, Tensor]]

    def masks(self, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The supports that are left of some parameters.

        Args:
            names: The parameters by their names in the original network (values are ignored).

        Returns:
            Original parameter name to boolean tensor of the cut parameter's shape: True where it is
            not zero.

        Raises:
            UnsupportedError: If a parameter is not part of the chain.
        """
        return {name: self._parameter(name).detach() != 0 for name in names}

    def cut_like(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cuts tensors as the weights and biases that they belong to were cut.

        Args:
            tensors: Original parameter name to tensor of the parameter's shape.

        Returns:
            Original parameter name to tensor of the cut parameter's shape, without the names that
            are no weight or bias of a weighted layer; zero where a weight is zero.
        """
        result = {}
        for name, tensor in tensors.items():
            path, _, kind = name.rpartition(".")
            if path not in self.kept or not hasattr(self._layer(path), kind):
                continue
            rows, columns = self.kept[path]
            cut = tensor.detach()[rows]
            if kind == "weight":
                cut = cut[:, columns].masked_fill(self._parameter(name) == 0, 0.0)
            result[name] = cut
        return result

    def name_of(self, name: str) -> str:
        """The name in `module` of an original parameter.

        Args:
            name: Its name in the original network.

        Returns:
            Layer and parameter.

        Raises:
            UnsupportedError: If the parameter is not part of the chain.
        """
        path, _, kind = name.rpartition(".")
        self._parameter(name)
        return f"{self.names[path]}.{kind}"

    def freeze_like(self, net: nn.Module) -> None:
        """Takes over which parameters are not to be trained.

        Args:
            net: The original network.
        """
        for name, parameter in net.named_parameters():
            path, _, kind = name.rpartition(".")
            if path in self.names and not parameter.requires_grad:
                getattr(self._layer(path), kind).requires_grad_(False)

    def _layer(self, path: str) -> nn.Module:
        return self.module.get_submodule(self.names[path])

    def _parameter(self, name: str) -> Tensor:
        path, _, attribute = name.rpartition(".")
        if path not in self.names:
            raise UnsupportedError(
                "a mask is given for a parameter that the forward pass does not use as a layer",
                given=name,
                accepted=[f"{known}.weight" for known in self.names],
            )
        return self.module.get_parameter(f"{self.names[path]}.{attribute}")


def shrink(net: nn.Module, masks: Mapping[str, Tensor], example: Tensor) -> nn.Sequential:
    """Cuts away every unit that the pruned network does not need.

    The result computes what `masked(net, masks)` computes in evaluation mode, for inputs of the
    example's shape. Units that nobody reads are dropped; units without incoming weights output a
    constant, which is folded into the next bias where that is exact (a channel that is not zero
    stays in front of a zero-padded convolution); inputs that nobody reads are dropped by an index
    selection. Layers that do nothing in evaluation mode are left out. Outputs and at least one unit
    of every layer stay.

    Args:
        net: A chain of listed layers, carrying the weights to keep; it is not touched.
        masks: Parameter name to mask of the parameter's shape: kept weights True or 1. Weights that
            are exactly zero count as pruned, with or without a mask.
        example: An input batch, shape (batch, ...).

    Returns:
        The smaller network in evaluation mode.

    Raises:
        UnsupportedError: If the network is not a chain of listed layers, or a mask belongs to none
            of them.
        SiteError, ShapeError, InvalidArgumentError, InvalidDataError: If the masks do not fit; see
            `masked`.
    """
    cut = cut_masked(masked(net, masks), example)
    cut.masks(masks)
    return cut.module


def cut_masked(pruned: nn.Module, example: Tensor) -> Cut:
    """Cuts a network whose pruned weights are already zero.

    Args:
        pruned: A chain of listed layers; it is not touched.
        example: An input batch, shape (batch, ...).

    Returns:
        The cut network and where its parameters come from.

    Raises:
        UnsupportedError: If the network is not a chain of listed layers.
    """
    stages, tail = stages_of(chain_of(pruned, example))
    settle(stages)
    layers = _front(stages[0])
    layers.append((stages[0].link, _cut_weighted(stages[0])))
    for earlier, stage in pairwise(stages):
        layers += _between(stage, stage.before, earlier.rows)
        layers.append((stage.link, _cut_weighted(stage)))
    layers += [(link, link.layer) for link in tail]
    kept = {s.link.path: (s.rows, s.own_cols) for s in stages if s.link.path is not None}
    cut = Cut(*_assemble(layers), kept)
    cut.freeze_like(pruned)
    return cut


_Layers = list[tuple[Link | None, nn.Module]]


def _assemble(layers: _Layers) -> tuple[nn.Sequential, dict[str, str]]:
    """The network, and original module path to the layer's name in it."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    names: dict[str, str] = {}
    taken = {link.name for link, _ in layers if link is not None}
    selections = (f"select{i}" for i in count() if f"select{i}" not in taken)
    for link, layer in layers:
        if link is None:
            modules[next(selections)] = layer
        elif link.role is not Role.NOTHING:
            modules[link.name] = layer
            if link.path is not None:
                names[link.path] = link.name
    return nn.Sequential(modules).eval(), names


def _front(stage: Stage) -> _Layers:
    """The layers in front of the first weighted layer, and a selection of the inputs it reads."""
    if stage.merge is not None:
        # Whole channels are not dropped here: the selection behind the merge drops every unread
        # feature.
        channels = stage.before[stage.merge].in_shape[0]
        return _between(stage, stage.before, stage.cols.new_ones(channels))
    cut: _Layers = [(link, _cut_channelwise(link.layer, stage.cols)) for link in stage.before]
    return _selection(stage.cols) + cut


def _between(stage: Stage, before: list[Link], units: Tensor) -> _Layers:
    """The layers in front of a weighted layer, cut to the kept units of the layer before."""
    layers: _Layers = []
    for i, link in enumerate(before):
        layers.append((link, _cut_channelwise(link.layer, units)))
        if i == stage.merge:
            layers += _selection(stage.cols[units.repeat_interleave(stage.positions)])
            units = stage.cols
    return layers


def _selection(keep: Tensor) -> _Layers:
    return [] if bool(keep.all()) else [(None, InputSelect.of(keep))]


def _cut_channelwise(layer: nn.Module, keep: Tensor) -> nn.Module:
    """Drops the parameters and statistics of channels that are gone."""
    config = config_of(layer)
    size = next((name for name in ("num_features", "num_parameters") if name in config), None)
    if size is None or config[size] == 1 or bool(keep.all()):
        return layer
    config[size] = int(keep.sum())
    state = {name: t[keep] if t.ndim else t for name, t in layer.state_dict().items()}
    return rebuild(type(layer), config, state)


def _cut_weighted(stage: Stage) -> nn.Module:
    """The weighted layer with its kept rows and columns and its new bias."""
    layer = stage.link.layer
    config = config_of(layer)
    original = layer.get_parameter("weight")
    rows, cols = int(stage.rows.sum()), int(stage.cols.sum())
    weight = stage.weight[stage.rows][:, stage.cols].to(original.dtype)
    state = {"weight": weight.reshape(rows, cols, *original.shape[2:])}
    bias = stage.bias[stage.rows].to(original.dtype)
    config["bias"] = bool(config["bias"]) or bool((bias != 0).any())
    if config["bias"]:
        state["bias"] = bias
    inputs, outputs = [name for name in config if name.startswith(("in_", "out_"))]
    config[inputs], config[outputs] = cols, rows
    return rebuild(type(layer), config, state)
