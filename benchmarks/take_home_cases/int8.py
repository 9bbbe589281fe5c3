"""8-bit integers by torchao (the extra `bench-peers`): what it is applied to, its file, its timing.

Its linear layers get weights of eight bits, one scale an output unit; convolutions stay as they
are. Nothing is compiled, which torchao recommends and no other row does either.
"""

from __future__ import annotations

import copy
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

#: Kinds of layers: integers all through, or integers that are made floating-point numbers again.
DYNAMIC, WEIGHTS = "int8", "int8 weights"
KINDS = (DYNAMIC, WEIGHTS)


def available() -> bool:
    """Whether torchao is installed."""
    return find_spec("torchao") is not None


def quantised(net: nn.Module, kind: str) -> nn.Module:
    """A copy whose linear layers have integer weights.

    Args:
        net: The network; it is not touched.
        kind: `DYNAMIC`: activations are rounded to eight bits too, with scales found at run time;
            `WEIGHTS`: weights alone.
    """
    quantization = _torchao().quantization
    config = {
        DYNAMIC: quantization.Int8DynamicActivationInt8WeightConfig,
        WEIGHTS: quantization.Int8WeightOnlyConfig,
    }[kind]
    result = copy.deepcopy(net).eval()
    quantization.quantize_(result, config())
    return result


def save(net: nn.Module, path: Path) -> None:
    """Writes what `quantised` returns as a safetensors file, by torchao's own functions for it.

    Args:
        net: The network.
        path: Where to write.
    """
    tensors, metadata = _safetensors().flatten_tensor_state_dict(net.state_dict())
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata)


def load(path: Path, like: nn.Module) -> nn.Module:
    """Reads it back.

    Args:
        path: The file.
        like: The network before it was quantised; it is not touched.
    """
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state, _ = _safetensors().unflatten_tensor_state_dict(tensors, file.metadata())
    result = copy.deepcopy(like).eval()
    result.load_state_dict(state, assign=True)
    return result


def _torchao() -> Any:
    # Its extensions are for GPUs: it says of each that it could not be loaded.
    logging.getLogger("torchao").setLevel(logging.ERROR)
    import torchao.quantization

    return torchao


def _safetensors() -> Any:
    _torchao()
    from torchao.prototype.safetensors import safetensors_support

    return safetensors_support
