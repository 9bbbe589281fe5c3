"""One tree in one file: safetensors with a JSON manifest, no pickle.

The manifest is the metadata entry `pyro_turbovbi.<kind>`: the form's version, the tree without its
tensors, and a SHA-256 digest over these and all tensors. A file that was cut off, altered or
written by something else is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor

from pyro_turbovbi.errors import ArtifactError
from pyro_turbovbi.persistence.trees import Tree, join, split

VERSION = 1
"""Version of the form; a reader refuses versions that it does not know."""


def pack(kind: str, tree: Tree) -> bytes:
    """Writes a tree.

    Args:
        kind: What it is, in one word: a file of another kind is refused by `unpack`.
        tree: See `trees`.

    Returns:
        The content of the file; equal trees give equal bytes.

    Raises:
        UnsupportedError: If something in the tree cannot be stored.
    """
    plain, tensors = split(tree)
    body = {"version": VERSION, "tree": plain}
    manifest = json.dumps(body | {"sha256": digest(body, tensors)}, separators=(",", ":"))
    return write_safetensors(tensors, {_key(kind): manifest})


def unpack(kind: str, content: bytes) -> Tree:
    """Reads a tree.

    Args:
        kind: What it must be.
        content: What `pack` returned.

    Returns:
        The tree; its tensors are on the CPU.

    Raises:
        ArtifactError: If the content is damaged, of an unknown version, or of another kind.
    """
    try:
        return _parse(kind, content)
    except ArtifactError:
        raise
    except Exception as error:  # the content is anybody's: whatever it leads to is its fault
        raise ArtifactError(f"the file is damaged or holds no {kind}: {error}") from error


def digest(description: object, tensors: Mapping[str, Tensor]) -> str:
    """The checksum of a manifest.

    Args:
        description: What the manifest says, plain data.
        tensors: All tensors of the file, on the CPU.

    Returns:
        SHA-256 over the description and the tensors' names, types, shapes and bytes, in
        hexadecimal.
    """
    sha = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def metadata_of(content: bytes, wanted: str) -> dict[str, str]:
    """The metadata at the beginning of a safetensors file; nothing of it is checked.

    Args:
        content: The content of the file.
        wanted: What it should hold, in words.

    Raises:
        ArtifactError: If it is no safetensors file, or one without metadata.
    """
    size = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + size])
    except (ValueError, RecursionError) as error:  # neither text nor JSON
        raise ArtifactError(
            f"the file holds no {wanted}: it is not a file of this package, or it is damaged"
        ) from error
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise ArtifactError(
            f"the file holds no {wanted}: it has no metadata of this package",
            given="a safetensors file of something else",
        )
    return metadata


def _parse(kind: str, content: bytes) -> Tree:
    metadata = metadata_of(content, kind)
    if _key(kind) not in metadata:
        raise ArtifactError(
            f"the file holds no {kind}", given=f"{', '.join(metadata)}", accepted=_key(kind)
        )
    manifest: dict[str, Any] = json.loads(metadata[_key(kind)])
    if manifest["version"] != VERSION:
        raise ArtifactError(
            "the file has an unknown version", given=manifest["version"], accepted=[VERSION]
        )
    checksum, tensors = manifest.pop("sha256"), parse_safetensors(content)
    if checksum != digest(manifest, tensors):
        raise ArtifactError("the file is damaged: its content does not have the recorded digest")
    return join(manifest["tree"], tensors)


def _key(kind: str) -> str:
    return f"pyro_turbovbi.{kind}"
