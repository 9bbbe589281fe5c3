"""Which implementation of message passing runs: compiled where it can, plain torch everywhere.

`"compiled"` takes single and double precision on the CPU and needs Numba (the extra `fast`);
`"torch"` takes everything. `"auto"` takes the compiled one where it can. Both give the same numbers
up to rounding; a grid in single precision keeps its messages in single precision when compiled and
in double precision otherwise.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError
from pyro_turbovbi.kernels import reference
from pyro_turbovbi.kernels.law import ChainSummary

BackendName = Literal["auto", "compiled", "torch"]

_COMPILED_DTYPES = (torch.float32, torch.float64)
_LARGE = 2**20


class SlowMessagePassingWarning(UserWarning):
    """A large posterior is computed by the portable code because an optional package is missing."""


class Backend(NamedTuple):
    """One implementation of message passing.

    Attributes:
        update_messages: As `reference.update_messages`.
        element_evidence: As `reference.element_evidence`.
        message_dtype: In what dtype it keeps messages, given that of the log-likelihood ratios.
    """

    update_messages: Callable[..., ChainSummary]
    element_evidence: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    message_dtype: Callable[[torch.dtype], torch.dtype]


def backend_for(llr: Tensor, name: str = "auto") -> Backend:
    """The back end for a tensor of log-likelihood ratios.

    Args:
        llr: The log-likelihood ratios: device, dtype and size count.
        name: `"compiled"`, `"torch"`, or `"auto"`: compiled if that is possible.

    Returns:
        The back end.

    Raises:
        InvalidArgumentError: If there is no back end of that name.
        UnsupportedError: If the compiled one is asked for and cannot run.
    """
    if name not in ("auto", "compiled", "torch"):
        raise InvalidArgumentError(
            "no such back end", given=name, accepted=("auto", "compiled", "torch")
        )
    suitable = llr.device.type == "cpu" and llr.dtype in _COMPILED_DTYPES
    if name != "torch" and suitable and numba_available():
        return _compiled()
    if name == "compiled":
        raise UnsupportedError(
            "the compiled back end cannot run here",
            given=f"{llr.dtype} on {llr.device}, Numba {_presence()}",
            accepted="float32 or float64 on the CPU, with the extra 'fast' installed",
        )
    if name == "auto" and suitable and llr.numel() >= _LARGE:
        _warn_once()
    return Backend(reference.update_messages, reference.element_evidence, lambda _: torch.float64)


def check_buffers(buffers: Iterable[Tensor], llr: Tensor) -> None:
    """Refuse tensors that cannot be overwritten by results of the shape and dtype of `llr`.

    Args:
        buffers: The tensors to be overwritten.
        llr: The log-likelihood ratios.

    Raises:
        ShapeError: If one has another shape, dtype or device, or is not contiguous.
    """
    for buffer in buffers:
        same = (buffer.shape, buffer.dtype, buffer.device) == (llr.shape, llr.dtype, llr.device)
        if not (same and buffer.is_contiguous()):
            raise ShapeError(
                "the posterior to be overwritten does not fit",
                given=f"a tensor {tuple(buffer.shape)} of {buffer.dtype} on {buffer.device}",
                accepted=f"contiguous {tuple(llr.shape)} of {llr.dtype} on {llr.device}",
            )


@functools.cache
def numba_available() -> bool:
    """Whether Numba is installed; it is not imported before it is needed."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def _compiled() -> Backend:
    from pyro_turbovbi.kernels import compiled  # importing Numba takes a third of a second

    return Backend(compiled.update_messages, compiled.element_evidence, lambda dtype: dtype)


def _presence() -> str:
    return "installed" if numba_available() else "not installed"


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "message passing over more than a million weights without Numba is about ten times slower: "
        "pip install 'pyro-turbovbi[fast]'",
        SlowMessagePassingWarning,
        stacklevel=2,
    )
