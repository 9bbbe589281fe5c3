"""One file for a compressed network, readable without pickle.

The file is a safetensors file with one metadata entry, `pyro_turbovbi`: JSON with the format
version, the layers (type and constructor arguments, from a closed list) and a SHA-256 digest over
the layers and all tensors. A file that was cut off, altered or written by something else is
refused. Tensors are named `<layer>/<tensor>/<part>`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn

from pyro_turbovbi.compression.encoding import (
    decode,
    decode_selection,
    encode,
    encode_selection,
)
from pyro_turbovbi.compression.layers import (
    LAYERS_BY_NAME,
    InputSelect,
    check_layer,
    config_of,
    rebuild,
)
from pyro_turbovbi.errors import ArtifactError, UnsupportedError

KEY = "pyro_turbovbi"
"""The metadata entry that holds the manifest."""
VERSION = 1
"""Version of the format; a reader refuses versions that it does not know."""

Layers = list[dict[str, Any]]
"""The manifest's description of a network: name, type, config and tensor codings of every layer."""


def serialise(module: nn.Module) -> bytes:
    """Writes a compressed network to bytes.

    Args:
        module: A flat `Sequential` of listed layers, as `shrink` returns it.

    Returns:
        The content of the file; equal networks give equal bytes.

    Raises:
        UnsupportedError: If the network is not a flat `Sequential` of listed layers.
    """
    if type(module) is not nn.Sequential:
        raise UnsupportedError(
            "only a Sequential of layers can be saved",
            given=type(module).__name__,
            accepted="the module that `shrink` or `compress` returns",
        )
    layers: Layers = []
    tensors: dict[str, Tensor] = {}
    for name, layer in module.named_children():
        check_layer(layer, name)
        codings, parts = _encode_layer(layer)
        config = config_of(layer)
        layers.append({"name": name, "type": type(layer).__name__, "config": config} | codings)
        tensors |= {f"{name}/{part}": tensor for part, tensor in parts.items()}
    manifest = {"version": VERSION, "layers": layers, "sha256": _digest(layers, tensors)}
    return write_safetensors(tensors, {KEY: json.dumps(manifest, separators=(",", ":"))})


def deserialise(content: bytes) -> nn.Sequential:
    """Reads a compressed network from bytes.

    Args:
        content: What `serialise` returned.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        ArtifactError: If the bytes are damaged, of an unknown version, or not one of ours.
    """
    try:
        return _deserialise(content)
    except ArtifactError:
        raise
    except (
        SafetensorError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ArtifactError(f"the file is damaged or not a saved network: {error}") from error


def save(module: nn.Module, path: str | os.PathLike[str]) -> int:
    """Saves a compressed network to a file, all or nothing.

    The file appears under its name only when it is complete; an existing file stays intact until
    then.

    Args:
        module: A flat `Sequential` of listed layers, as `shrink` returns it.
        path: Where to write.

    Returns:
        The number of bytes.

    Raises:
        UnsupportedError: If the network is not a flat `Sequential` of listed layers.
        OSError: If the file cannot be written.
    """
    content = serialise(module)
    target = Path(path)
    draft = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()
    return len(content)


def load(path: str | os.PathLike[str]) -> nn.Module:
    """Loads a network that was saved by `save` or `Compressed.save`.

    Args:
        path: The file.

    Returns:
        The network in evaluation mode, on the CPU: the same layers, and bit for bit the same
            tensors.

    Raises:
        ArtifactError: If the file is damaged, of an unknown version, or not one of ours.
        OSError: If the file cannot be read.
    """
    return deserialise(Path(path).read_bytes())


def _encode_layer(layer: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if isinstance(layer, InputSelect):
        return {}, {"keep": encode_selection(layer)}
    codings: dict[str, Any] = {}
    parts: dict[str, Tensor] = {}
    for name, tensor in layer.state_dict().items():
        codings[name], coded = encode(tensor.cpu())
        parts |= {f"{name}/{part}": t for part, t in coded.items()}
    return ({"tensors": codings} if codings else {}), parts


def _deserialise(content: bytes) -> nn.Sequential:
    manifest = _manifest(content)
    tensors = parse_safetensors(content)
    layers = manifest["layers"]
    if manifest["sha256"] != _digest(layers, tensors):
        raise ArtifactError("the file is damaged: its content does not have the recorded digest")
    network = nn.Sequential()
    for entry in layers:
        own = f"{entry['name']}/"
        parts = {k.removeprefix(own): t for k, t in tensors.items() if k.startswith(own)}
        network.add_module(entry["name"], _decode_layer(entry, parts))
    return network.eval()


def _manifest(content: bytes) -> dict[str, Any]:
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    try:
        manifest = json.loads(header["__metadata__"][KEY])
    except (LookupError, TypeError) as error:
        raise ArtifactError(
            "the file was not written by pyro_turbovbi", accepted="a file from Compressed.save"
        ) from error
    if manifest["version"] != VERSION:
        raise ArtifactError(
            "the file has an unknown version", given=manifest["version"], accepted=[VERSION]
        )
    return dict(manifest)


def _decode_layer(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> nn.Module:
    if entry["type"] not in LAYERS_BY_NAME:
        raise ArtifactError(
            "the file has an unknown layer type", given=entry["type"], accepted=LAYERS_BY_NAME
        )
    line, config = LAYERS_BY_NAME[entry["type"]], entry["config"]
    cls = line.cls
    if set(config) != set(line.settings):
        raise ArtifactError(
            f"the file has a {cls.__name__} with the wrong settings",
            given=sorted(config),
            accepted=line.settings,
        )
    if cls is InputSelect:
        state = {"indices": decode_selection(parts["keep"], config["size"], config["count"])}
        return rebuild(cls, config, state)
    state = {}
    for name, description in entry.get("tensors", {}).items():
        own = f"{name}/"
        coded = {k.removeprefix(own): t for k, t in parts.items() if k.startswith(own)}
        state[name] = decode(description, coded)
    return rebuild(cls, config, state)


def _digest(layers: Layers, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(layers, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
