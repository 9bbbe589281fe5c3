"""The plain form of a saved network: a safetensors file with a JSON manifest.

The manifest is the metadata entry `pyro_turbovbi`: the format version, the layers (type and
constructor arguments, from a closed list) and a SHA-256 digest over the layers and all tensors. A
file that was cut off, altered or written by something else is refused. Tensors are named
`<layer>/<tensor>/<part>`; the standard deviations of a tensor (version 2) have the tensor's name
with `.scale` behind it. A network that is no chain of layers (version 2) is described by `state`,
the codings of its tensors, `surgery` and `places` (see `state_form`); its marks are named `/0`,
`/1`, ... What the outputs mean is the entry `likelihood` (version 3).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
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
    pack_bits,
    unpack_bits,
)
from pyro_turbovbi.compression.layers import InputSelect, config_of, listed_type, rebuild
from pyro_turbovbi.compression.state_form import described, own_tensors, read_surgery
from pyro_turbovbi.compression.stored import (
    Stored,
    TensorSize,
    codes_to_scales,
    scales_to_codes,
)
from pyro_turbovbi.compression.surgery import Surgery
from pyro_turbovbi.errors import ArtifactError
from pyro_turbovbi.persistence.container import digest, metadata_of
from pyro_turbovbi.persistence.likelihoods import of_plain

KEY = "pyro_turbovbi"
"""The metadata entry that holds the manifest."""
VERSIONS = (1, 2, 3)
"""Versions that are read; 2 is written where there are standard deviations or a surgery, 3 where
there is a likelihood."""

Layers = list[dict[str, Any]]
"""The manifest's description of a network: name, type, config and tensor codings of every layer."""

_SCALE = ".scale"
_FIT = "pyro_turbovbi.fit"


def write_plain(
    module: nn.Module,
    scales: Mapping[str, Tensor],
    surgery: Surgery | None = None,
    likelihood: Mapping[str, Any] | None = None,
) -> bytes:
    """Writes a network in the plain form.

    Args:
        module: A flat `Sequential` of listed layers; any network if there is a surgery.
        scales: Posterior standard deviations to keep, by parameter name.
        surgery: How the network was cut, if it is no chain of layers.
        likelihood: What the outputs mean, as `persistence.likelihoods.to_plain` says it.

    Returns:
        The content of the file; equal networks give equal bytes.
    """
    if surgery is not None:
        description, tensors = _encode_state(module, scales, surgery)
    else:
        layers, tensors = _encode_layers(module, scales)
        description = {"layers": layers}
    version = 2 if scales or surgery is not None else 1
    if likelihood is not None:
        version, description = 3, description | {"likelihood": dict(likelihood)}
    checksum = digest(_signed(description), tensors)
    manifest = {"version": version} | description | {"sha256": checksum}
    return write_safetensors(tensors, {KEY: json.dumps(manifest, separators=(",", ":"))})


def read_plain(content: bytes) -> Stored:
    """Reads a network in the plain form.

    Args:
        content: What `write_plain` returned.

    Returns:
        The network, or its parts.

    Raises:
        ArtifactError: If the content is damaged, of an unknown version, or not one of ours; other
            exceptions may come out of forged content.
    """
    manifest = _manifest(content)
    tensors = parse_safetensors(content)
    checksum, version = manifest.pop("sha256"), manifest.pop("version")
    if checksum != digest(_signed(manifest), tensors):
        raise ArtifactError("the file is damaged: its content does not have the recorded digest")
    meaning = manifest.get("likelihood")
    likelihood = None if meaning is None else of_plain(meaning)
    if "state" in manifest:
        return replace(_decode_state(manifest, tensors, version), likelihood=likelihood)
    network = nn.Sequential()
    scales: dict[str, Tensor] = {}
    sizes: list[TensorSize] = []
    for entry in manifest["layers"]:
        name, parts = entry["name"], _below(tensors, entry["name"])
        layer, own = _decode_layer(entry, parts)
        network.add_module(name, layer)
        scales |= {f"{name}.{kind}": scale for kind, scale in own.items()}
        if isinstance(layer, InputSelect):
            bits = 8.0 * parts["keep"].numel()
            size = (layer.size,)
            sizes.append(TensorSize(f"{name}.indices", size, layer.count, "bit mask", bits, 0.0))
        else:
            sizes += _sizes(f"{name}.", layer.state_dict(), parts)
    return Stored(
        "plain", version, scales, tuple(sizes), module=network.eval(), likelihood=likelihood
    )


def _signed(description: Mapping[str, Any]) -> Any:
    """What the digest is over: of layers that stand alone, as in version 1, these themselves."""
    alone = description.keys() == {"layers"}
    return description["layers"] if alone else description


def _encode_layers(
    module: nn.Module, scales: Mapping[str, Tensor]
) -> tuple[Layers, dict[str, Tensor]]:
    layers: Layers = []
    tensors: dict[str, Tensor] = {}
    for name, layer in module.named_children():
        own = {k.removeprefix(f"{name}."): s for k, s in scales.items() if k.startswith(f"{name}.")}
        entry = {"name": name, "type": type(layer).__name__, "config": config_of(layer)}
        if isinstance(layer, InputSelect):
            parts = {"keep": encode_selection(layer)}
        else:
            codings, parts = _encode_tensors(layer.state_dict(), own)
            entry |= {"tensors": codings} if codings else {}
        layers.append(entry)
        tensors |= {f"{name}/{part}": tensor for part, tensor in parts.items()}
    return layers, tensors


def _encode_state(
    module: nn.Module, scales: Mapping[str, Tensor], surgery: Surgery
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    codings, tensors = _encode_tensors(own_tensors(module), scales)
    plain, marks = described(surgery)
    tensors |= {f"/{number}": pack_bits(mark) for number, mark in enumerate(marks)}
    places = [mark.numel() for mark in marks]
    return {"state": codings, "surgery": plain, "places": places}, tensors


def _encode_tensors(
    state: Mapping[str, Tensor], scales: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    codings: dict[str, Any] = {}
    parts: dict[str, Tensor] = {}
    stored = {name: tensor.cpu() for name, tensor in state.items()}
    stored |= {f"{name}{_SCALE}": scales_to_codes(s.cpu()) for name, s in scales.items()}
    for name, tensor in stored.items():
        codings[name], coded = encode(tensor)
        parts |= {f"{name}/{part}": t for part, t in coded.items()}
    return codings, parts


def _manifest(content: bytes) -> dict[str, Any]:
    metadata = metadata_of(content, "compressed network")
    try:
        manifest = json.loads(metadata[KEY])
    except (LookupError, TypeError) as error:
        raise ArtifactError(
            "the file holds no compressed network",
            given="a fit, which Fit.load reads" if _FIT in metadata else None,
            accepted="a file from Compressed.save",
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
    state, scales = _decode_tensors(entry.get("tensors", {}), parts)
    return rebuild(cls, config, state), scales


def _decode_state(
    manifest: Mapping[str, Any], tensors: Mapping[str, Tensor], version: int
) -> Stored:
    state, scales = _decode_tensors(manifest["state"], tensors)
    marks = [unpack_bits(tensors[f"/{n}"], size) for n, size in enumerate(manifest["places"])]
    surgery = read_surgery(manifest["surgery"], marks)
    sizes = tuple(_sizes("", state, tensors))
    return Stored("plain", version, scales, sizes, state=state, surgery=surgery)


def _decode_tensors(
    codings: Mapping[str, Any], parts: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors, and the standard deviations of some, by name."""
    stored = {name: decode(coding, _below(parts, name)) for name, coding in codings.items()}
    state = {name: t for name, t in stored.items() if not name.endswith(_SCALE)}
    scales = {}
    for name in stored.keys() - state.keys():
        tensor, codes = state[name.removesuffix(_SCALE)], stored[name]
        if codes.dtype != torch.uint8 or codes.shape != tensor.shape:
            raise ArtifactError("standard deviations do not fit their parameter", given=name)
        scales[name.removesuffix(_SCALE)] = codes_to_scales(codes, tensor.dtype)
    return state, scales


def _sizes(
    prefix: str, state: Mapping[str, Tensor], parts: Mapping[str, Tensor]
) -> Iterator[TensorSize]:
    for kind, tensor in state.items():
        own, scale = _bits(parts, kind), _bits(parts, f"{kind}{_SCALE}")
        yield TensorSize(
            name=f"{prefix}{kind}",
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
