"""One file for a compressed network, readable without pickle.

There are two codings. The plain one is a safetensors file that holds every value exactly (see
`plain`); the compact one is several times smaller and needs the package `constriction` on both
sides (see `compact`). A reader tells them apart by the first bytes. Either has a version, a
manifest over a closed list of layers, and a checksum; a file that was cut off, altered or written
by something else is refused with `ArtifactError` and takes no more memory than its size justifies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor, nn

from pyro_turbovbi.compression.compact import read_compact, write_compact
from pyro_turbovbi.compression.container import MAGIC
from pyro_turbovbi.compression.layers import check_layer
from pyro_turbovbi.compression.plain import read_plain, write_plain
from pyro_turbovbi.compression.quantisation import Step
from pyro_turbovbi.compression.stored import Stored
from pyro_turbovbi.compression.surgery import Surgery
from pyro_turbovbi.compression.uncertainty import LoadedPosterior
from pyro_turbovbi.errors import ArtifactError, InvalidArgumentError, UnsupportedError
from pyro_turbovbi.likelihoods import Likelihood
from pyro_turbovbi.persistence.files import read as read_bytes
from pyro_turbovbi.persistence.files import write_atomically
from pyro_turbovbi.persistence.likelihoods import storable, to_plain


def serialise(
    module: nn.Module,
    *,
    coding: str = "plain",
    steps: Mapping[str, Step] | None = None,
    scales: Mapping[str, Tensor] | None = None,
    surgery: Surgery | None = None,
    likelihood: Likelihood | None = None,
) -> bytes:
    """Writes a compressed network to bytes.

    Args:
        module: A flat `Sequential` of listed layers, as `shrink` returns it; any network if there
            is a surgery.
        coding: `"plain"` or `"compact"`.
        steps: Steps of the grids on which parameters lie, by parameter name; the compact form
            stores such parameters as whole multiples. None or a parameter off its grid: exact
            values.
        scales: Posterior standard deviations to keep, by parameter name.
        surgery: How the network was cut, if it is no chain of layers: the file then holds its
            tensors and the surgery.
        likelihood: What the outputs mean; one of this package, others are left out.

    Returns:
        The content of the file; equal networks give equal bytes.

    Raises:
        UnsupportedError: If the network is not a flat `Sequential` of listed layers, or the package
            `constriction` is needed and not installed.
        InvalidArgumentError: If the coding is unknown.
    """
    if surgery is None:
        _check_chain(module)
    meaning = to_plain(likelihood) if likelihood is not None and storable(likelihood) else None
    if coding == "plain":
        return write_plain(module, scales or {}, surgery, meaning)
    if coding == "compact":
        return write_compact(module, steps or {}, scales or {}, surgery, meaning)
    raise InvalidArgumentError("unknown coding", given=coding, accepted='"plain", "compact"')


def deserialise(content: bytes, net: nn.Module | None = None) -> nn.Module:
    """Reads a compressed network from bytes.

    Args:
        content: What `serialise` returned.
        net: See `load`.

    Returns:
        The network in evaluation mode, on the CPU.

    Raises:
        ArtifactError: If the bytes are damaged, of an unknown version, or not one of ours.
        UnsupportedError: If the package `constriction` is needed and not installed.
    """
    return read(content).assembled(net)


def read(content: bytes) -> Stored:
    """Reads everything that a file holds.

    Args:
        content: What `serialise` returned.

    Returns:
        The network, its standard deviations, and what every tensor takes.

    Raises:
        ArtifactError: If the bytes are damaged, of an unknown version, or not one of ours.
        UnsupportedError: If the package `constriction` is needed and not installed.
    """
    try:
        return (read_compact if content.startswith(MAGIC) else read_plain)(content)
    except (ArtifactError, UnsupportedError):
        raise
    except Exception as error:  # the content is anybody's: whatever it leads to is its fault
        raise ArtifactError(f"the file is damaged or not a saved network: {error}") from error


def save(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    coding: str = "plain",
    steps: Mapping[str, Step] | None = None,
    scales: Mapping[str, Tensor] | None = None,
    surgery: Surgery | None = None,
    likelihood: Likelihood | None = None,
) -> int:
    """Saves a compressed network to a file, all or nothing.

    The file appears under its name only when it is complete; an existing file stays intact until
    then.

    Args:
        module: See `serialise`.
        path: Where to write.
        coding: See `serialise`.
        steps: See `serialise`.
        scales: See `serialise`.
        surgery: See `serialise`.
        likelihood: See `serialise`.

    Returns:
        The number of bytes.

    Raises:
        UnsupportedError: If the network is not a flat `Sequential` of listed layers, or the package
            `constriction` is needed and not installed.
        InvalidArgumentError: If the coding is unknown.
        StorageError: If the file cannot be written.
    """
    content = serialise(
        module, coding=coding, steps=steps, scales=scales, surgery=surgery, likelihood=likelihood
    )
    write_atomically(path, content)
    return len(content)


def load(path: str | os.PathLike[str], net: nn.Module | None = None) -> nn.Module:
    """Loads a network that was saved by `save` or `Compressed.save`.

    Args:
        path: The file.
        net: For a network that is no chain of layers: an instance of its class with the sizes that
            it had before it was cut, whatever its weights. It is not touched.

    Returns:
        The network in evaluation mode, on the CPU: the same layers, and bit for bit the same
            tensors.

    Raises:
        ArtifactError: If the file is damaged, of an unknown version, or not one of ours.
        InvalidArgumentError, ShapeError: If there is no `net` and the file needs one, there is one
            that it does not need, or it does not fit.
        UnsupportedError: If the package `constriction` is needed and not installed.
        StorageError: If the file cannot be read; `MissingFileError` if it is not there.
    """
    return deserialise(read_bytes(path), net)


def load_posterior(path: str | os.PathLike[str], net: nn.Module | None = None) -> LoadedPosterior:
    """Loads a network with its uncertainty, saved by `Compressed.save(path, uncertainty=True)`.

    Args:
        path: The file.
        net: See `load`.

    Returns:
        The network, the standard deviations of its weights, and what its outputs mean if the file
            says so, on the CPU.

    Raises:
        ArtifactError: If the file is damaged, of an unknown version, not one of ours, or holds no
            standard deviations.
        InvalidArgumentError, ShapeError: If there is no `net` and the file needs one, there is one
            that it does not need, or it does not fit.
        UnsupportedError: If the package `constriction` is needed and not installed.
        StorageError: If the file cannot be read; `MissingFileError` if it is not there.
    """
    stored = read(read_bytes(path))
    if not stored.scales:
        raise ArtifactError(
            "the file holds no standard deviations",
            accepted="a file from Compressed.save(path, uncertainty=True)",
        )
    return LoadedPosterior(stored.assembled(net), stored.scales, stored.likelihood)


def _check_chain(module: nn.Module) -> None:
    if type(module) is not nn.Sequential:
        raise UnsupportedError(
            "only a Sequential of layers can be saved without a surgery",
            given=type(module).__name__,
            accepted="the module that `shrink` or `compress` returns",
        )
    for name, layer in module.named_children():
        check_layer(layer, name)
