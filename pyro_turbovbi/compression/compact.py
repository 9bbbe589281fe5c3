"""The compact form of a saved network: whatever repeats or clusters is entropy coded.

The manifest (see `container`) is `{"layers": [...]}` for a chain of layers: one list a layer of
name, type, constructor arguments, and one entry for every tensor of the layer's state in its order
(see `compact_tensors`); shapes follow from the arguments. For any other network it is `{"state":
[[name, shape, entry], ...], "surgery": ...}` (see `state_form`). What the outputs mean is the entry
`likelihood`, if it is known; readers from before there was one pass over it. A file of n bytes may
stand for at most 2^20 + 4096 n entries, which is checked before memory is taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.compact_tensors import TensorReader, TensorWriter, whole
from pyro_turbovbi.compression.container import VERSION, Sections, pack, unpack
from pyro_turbovbi.compression.layers import InputSelect, blank, config_of, listed_type, rebuild
from pyro_turbovbi.compression.quantisation import Step
from pyro_turbovbi.compression.state_form import described, own_tensors, read_surgery
from pyro_turbovbi.compression.stored import Stored
from pyro_turbovbi.compression.surgery import Surgery
from pyro_turbovbi.errors import ArtifactError, UnsupportedError
from pyro_turbovbi.persistence.likelihoods import of_plain

Steps = Mapping[str, Step]
Scales = Mapping[str, Tensor]


def write_compact(
    module: nn.Module,
    steps: Steps,
    scales: Scales,
    surgery: Surgery | None = None,
    likelihood: Mapping[str, Any] | None = None,
) -> bytes:
    """Writes a network in the compact form, and reads it back as a check.

    Args:
        module: A flat `Sequential` of listed layers; any network if there is a surgery.
        steps: Steps of the grids on which parameters lie, by parameter name; a parameter that is
            not on its grid, or has none, is stored exactly.
        scales: Posterior standard deviations to keep, by parameter name.
        surgery: How the network was cut, if it is no chain of layers.
        likelihood: What the outputs mean, as `persistence.likelihoods.to_plain` says it.

    Returns:
        The content of the file; equal networks give equal bytes.

    Raises:
        UnsupportedError: If the package `constriction` is not installed, or the network is so large
            and empty that no file of its size can be trusted to stand for it.
    """
    writer = TensorWriter()
    manifest: dict[str, Any]
    if surgery is None:
        manifest = {"layers": _write_layers(writer, module, steps, scales)}
    else:
        manifest = _write_state(writer, module, steps, scales, surgery)
    if likelihood is not None:
        manifest["likelihood"] = dict(likelihood)
    content = pack(Sections(manifest, writer.coder.finish(), b"".join(writer.exact)))
    try:
        read_compact(content)
    except ArtifactError as error:
        raise UnsupportedError(
            f"the network cannot be saved in the compact form: {error}", accepted='coding="plain"'
        ) from error
    return content


def read_compact(content: bytes) -> Stored:
    """Reads a network in the compact form.

    Args:
        content: What `write_compact` returned.

    Returns:
        The network, or its parts.

    Raises:
        ArtifactError: If the content is damaged, of an unknown version, or not one of ours; other
            exceptions may come out of forged content.
        UnsupportedError: If the package `constriction` is not installed.
    """
    sections = unpack(content)
    reader = TensorReader(sections, len(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of layers without units
        read = _read_state if "state" in sections.manifest else _read_layers
        stored = read(reader, sections.manifest)
    meaning = sections.manifest.get("likelihood")
    return stored if meaning is None else replace(stored, likelihood=of_plain(meaning))


def _write_layers(
    writer: TensorWriter, module: nn.Module, steps: Steps, scales: Scales
) -> list[list[Any]]:
    layers: list[list[Any]] = []
    for name, layer in module.named_children():
        config = config_of(layer)
        if isinstance(layer, InputSelect):
            marks = torch.zeros(layer.size, dtype=torch.bool)
            marks[layer.indices.cpu()] = True
            entries = [writer.marks(marks)]
        else:
            default = blank(type(layer), config).state_dict()
            entries = [
                writer.tensor(
                    tensor,
                    default[kind].dtype,
                    steps.get(f"{name}.{kind}"),
                    scales.get(f"{name}.{kind}"),
                )
                for kind, tensor in layer.state_dict().items()
            ]
        layers.append([name, type(layer).__name__, config, entries])
    return layers


def _read_layers(reader: TensorReader, manifest: Mapping[str, Any]) -> Stored:
    network, scales = nn.Sequential(), dict[str, Tensor]()
    for name, kind, config, entries in manifest["layers"]:
        cls = listed_type(kind, config)
        state = {}
        like = blank(cls, config).state_dict()
        for (part, tensor), entry in zip(like.items(), entries, strict=True):
            full_name = f"{name}.{part}"
            if cls is InputSelect:
                state[part] = reader.marks(full_name, entry, config["size"]).nonzero().flatten()
                if len(state[part]) != config["count"]:
                    raise ArtifactError("a selection keeps the wrong number of units")
            else:
                state[part], scale = reader.tensor(full_name, entry, tensor)
                scales |= {} if scale is None else {full_name: scale}
        network.add_module(name, rebuild(cls, config, state))
    reader.finish()
    return Stored("compact", VERSION, scales, tuple(reader.sizes), module=network.eval())


def _write_state(
    writer: TensorWriter, module: nn.Module, steps: Steps, scales: Scales, surgery: Surgery
) -> dict[str, Any]:
    plain, marks = described(surgery)
    places = [[mark.numel(), writer.marks(mark)] for mark in marks]
    state = [
        [
            name,
            list(tensor.shape),
            writer.tensor(tensor, torch.float32, steps.get(name), scales.get(name)),
        ]
        for name, tensor in own_tensors(module).items()
    ]
    return {"state": state, "surgery": plain, "places": places}


def _read_state(reader: TensorReader, manifest: Mapping[str, Any]) -> Stored:
    marks = [
        reader.marks(f"places {number}", entry, size)
        for number, (size, entry) in enumerate(manifest["places"])
    ]
    state, scales = dict[str, Tensor](), dict[str, Tensor]()
    for name, shape, entry in manifest["state"]:
        sizes = [whole(size, 0, None) for size in shape]
        like = torch.empty(sizes, dtype=torch.float32, device="meta")
        state[name], scale = reader.tensor(name, entry, like)
        scales |= {} if scale is None else {name: scale}
    reader.finish()
    surgery = read_surgery(manifest["surgery"], marks)
    return Stored("compact", VERSION, scales, tuple(reader.sizes), state=state, surgery=surgery)
