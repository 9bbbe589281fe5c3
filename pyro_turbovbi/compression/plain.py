"""The plain form of a saved network: a safetensors file with a JSON manifest.

The manifest is the metadata entry `pyro_turbovbi`: the format version, the layers (type and
constructor arguments, from a closed list) and a SHA-256 digest over the layers and all tensors. A
file that was cut off, altered or written by something else is refused. Tensors are named
`<layer>/<tensor>/<part>`; the standard deviations of a tensor (version 2) have the tensor's name
with `.scale` behind it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn

from pyro_turbovbi.compression.encoding import (
    decode,
    decode_selection,
    encode,
    encode_selection,
)
from pyro_turbovbi.compression.layers import InputSelect, config_of, listed_type, rebuild
from pyro_turbovbi.compression.stored import (
    Stored,
    TensorSize,
    codes_to_scales,
    scales_to_codes,
)
from pyro_turbovbi.errors import ArtifactError

KEY = "pyro_turbovbi"
"""The metadata entry that holds the manifest."""
VERSIONS = (1, 2)
"""Versions that are read; version 2 has standard deviations and is written for them alone."""

Layers = list[dict[str, Any]]
"""The manifest's description of a network: name, type, config and tensor codings of every layer."""

_SCALE = ".scale"


def write_plain(module: nn.Sequential, scales: Mapping[str, Tensor]) -> bytes:
    """Writes a network in the plain form.

    Args:
        module: A flat `Sequential` of listed layers.
        scales: Posterior standard deviations to keep, by parameter name.

    Returns:
        The content of the file; equal networks give equal bytes.
    """
    layers: Layers = []
    tensors: dict[str, Tensor] = {}
    for name, layer in module.named_children():
        own = {k.removeprefix(f"{name}."): s for k, s in scales.items() if k.startswith(f"{name}.")}
        codings, parts = _encode_layer(layer, own)
        config = config_of(layer)
        layers.append({"name": name, "type": type(layer).__name__, "config": config} | codings)
        tensors |= {f"{name}/{part}": tensor for part, tensor in parts.items()}
    version = 2 if scales else 1
    manifest = {"version": version, "layers": layers, "sha256": digest(layers, tensors)}
    return write_safetensors(tensors, {KEY: json.dumps(manifest, separators=(",", ":"))})


def read_plain(content: bytes) -> Stored:
    """Reads a network in the plain form.

    Args:
        content: What `write_plain` returned.

    Returns:
        The network.

    Raises:
        ArtifactError: If the content is damaged, of an unknown version, or not one of ours; other
            exceptions may come out of forged content.
    """
    manifest = _manifest(content)
    tensors = parse_safetensors(content)
    layers = manifest["layers"]
    if manifest["sha256"] != digest(layers, tensors):
        raise ArtifactError("the file is damaged: its content does not have the recorded digest")
    network = nn.Sequential()
    scales: dict[str, Tensor] = {}
    sizes: list[TensorSize] = []
    for entry in layers:
        name, parts = entry["name"], _below(tensors, entry["name"])
        layer, own = _decode_layer(entry, parts)
        network.add_module(name, layer)
        scales |= {f"{name}.{kind}": scale for kind, scale in own.items()}
        sizes += _sizes(entry, layer, parts)
    return Stored(network.eval(), scales, "plain", manifest["version"], tuple(sizes))


def digest(layers: Layers, tensors: Mapping[str, Tensor]) -> str:
    """The checksum in the manifest.

    Args:
        layers: The manifest's description of the network.
        tensors: All tensors of the file.

    Returns:
        SHA-256 over names, types, shapes and bytes, in hexadecimal.
    """
    sha = hashlib.sha256(json.dumps(layers, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _encode_layer(
    layer: nn.Module, scales: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if isinstance(layer, InputSelect):
        return {}, {"keep": encode_selection(layer)}
    codings: dict[str, Any] = {}
    parts: dict[str, Tensor] = {}
    stored = {name: tensor.cpu() for name, tensor in layer.state_dict().items()}
    stored |= {f"{name}{_SCALE}": scales_to_codes(s.cpu()) for name, s in scales.items()}
    for name, tensor in stored.items():
        codings[name], coded = encode(tensor)
        parts |= {f"{name}/{part}": t for part, t in coded.items()}
    return ({"tensors": codings} if codings else {}), parts


def _manifest(content: bytes) -> dict[str, Any]:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    try:
        manifest = json.loads(header["__metadata__"][KEY])
    except (LookupError, TypeError) as error:
        raise ArtifactError(
            "the file was not written by pyro_turbovbi", accepted="a file from Compressed.save"
        ) from error
    if manifest["version"] not in VERSIONS:
        raise ArtifactError(
            "the file has an unknown version", given=manifest["version"], accepted=VERSIONS
        )
    return dict(manifest)


def _decode_layer(
    entry: Mapping[str, Any], parts: Mapping[str, Tensor]
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A layer, and the standard deviations of its parameters."""
    config = entry["config"]
    cls = listed_type(entry["type"], config)
    if cls is InputSelect:
        state = {"indices": decode_selection(parts["keep"], config["size"], config["count"])}
        return rebuild(cls, config, state), {}
    codings = entry.get("tensors", {})
    stored = {name: decode(coding, _below(parts, name)) for name, coding in codings.items()}
    state = {name: t for name, t in stored.items() if not name.endswith(_SCALE)}
    layer, scales = rebuild(cls, config, state), {}
    for name in stored.keys() - state.keys():
        parameter = layer.get_parameter(name.removesuffix(_SCALE))
        if stored[name].dtype != torch.uint8 or stored[name].shape != parameter.shape:
            raise ArtifactError("standard deviations do not fit their parameter", given=name)
        scales[name.removesuffix(_SCALE)] = codes_to_scales(stored[name], parameter.dtype)
    return layer, scales


def _sizes(
    entry: Mapping[str, Any], layer: nn.Module, parts: Mapping[str, Tensor]
) -> Iterator[TensorSize]:
    if isinstance(layer, InputSelect):
        name, bits = f"{entry['name']}.indices", 8.0 * parts["keep"].numel()
        yield TensorSize(name, (layer.size,), layer.count, "bit mask", bits, 0.0)
        return
    for kind, tensor in layer.state_dict().items():
        own, scale = _bits(parts, kind), _bits(parts, f"{kind}{_SCALE}")
        yield TensorSize(
            name=f"{entry['name']}.{kind}",
            shape=tuple(tensor.shape),
            kept=int((tensor != 0).sum()),
            coding="bit mask" if "mask" in own else "dense",
            support_bits=own.get("mask", 0.0),
            value_bits=sum(own.values(), 0.0) - own.get("mask", 0.0),
            scale_bits=sum(scale.values(), 0.0),
        )


def _bits(parts: Mapping[str, Tensor], name: str) -> dict[str, float]:
    below = _below(parts, name)
    return {part: 8.0 * t.numel() * t.element_size() for part, t in below.items()}


def _below(parts: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    own = f"{name}/"
    return {key.removeprefix(own): t for key, t in parts.items() if key.startswith(own)}
