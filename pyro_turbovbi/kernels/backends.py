"""Which implementation of message passing runs.

    compiled   CPU, single and double precision; needs Numba (the extra `fast`)
    triton     CUDA, single and double precision; needs Triton, a part of torch's GPU builds
    scan       any device: a scan of logarithmic depth in torch
    torch      any device: a loop over the length in torch, the reference

`"auto"` takes the first two where they can run, otherwise the loop on the CPU and the scan
elsewhere. All give the same numbers up to rounding: all arithmetic is in double precision. Between
the passes of a grid the reference keeps messages in double precision too, the others in that of the
log-likelihood ratios.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError
from pyro_turbovbi.kernels import reference, scan, triton_scan
from pyro_turbovbi.kernels.law import ChainLaw, ChainSummary

BackendName = Literal["auto", "compiled", "triton", "scan", "torch"]
"""How messages can be computed; "auto" chooses by device, size and what is installed."""

_NATIVE = (torch.float32, torch.float64)
_LARGE = 2**20


class SlowMessagePassingWarning(UserWarning):
    """Portable code computes a posterior: an optional package is missing or does not work."""


class Backend(NamedTuple):
    """One implementation of message passing.

    Attributes:
        update_messages: As `reference.update_messages`.
        element_evidence: As `reference.element_evidence`.
        gate_messages: As `reference.gate_messages`.
        doubles: Whether it keeps messages in double precision whatever the input.
    """

    update_messages: Callable[..., ChainSummary]
    element_evidence: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    gate_messages: Callable[[Tensor, Tensor, Tensor, int], None]
    doubles: bool = False

    def workspace(self, result: Tensor) -> Tensor:
        """Where messages are kept: the result's own memory, or more precise memory beside it."""
        if not self.doubles or result.dtype == torch.float64:
            return result
        return torch.empty_like(result, dtype=torch.float64)


def backend_for(llr: Tensor, name: BackendName = "auto") -> Backend:
    """The back end for a tensor of log-likelihood ratios.

    Args:
        llr: The log-likelihood ratios: device, dtype and size count.
        name: Its name, or `"auto"` for the fastest that can run.

    Returns:
        The back end.

    Raises:
        InvalidArgumentError: If there is no back end of that name.
        UnsupportedError: If the one that is asked for cannot run.
    """
    if name not in get_args(BackendName):
        raise InvalidArgumentError("no such back end", given=name, accepted=get_args(BackendName))
    if name == "auto":
        return _load(_fastest(llr))
    needs = _unmet(name, llr)
    if needs is not None:
        raise UnsupportedError(
            f"the back end {name!r} cannot run here",
            given=f"{llr.dtype} on {llr.device}",
            accepted=needs,
        )
    return _load(name)


def backend_names(llr: Tensor) -> list[BackendName]:
    """The names of all back ends that can run for a tensor.

    Args:
        llr: Log-likelihood ratios: device and dtype count.

    Returns:
        Names that `backend_for` takes, the fastest first on large tensors.
    """
    names: tuple[BackendName, ...] = ("compiled", "triton", "scan", "torch")
    return [name for name in names if _unmet(name, llr) is None]


def buffers(llr: Tensor, given: Sequence[Tensor | None]) -> list[Tensor]:
    """Tensors to write results of the shape and dtype of `llr` into: those given, or new ones.

    Args:
        llr: The log-likelihood ratios.
        given: Tensors to be overwritten; None makes a new one.

    Returns:
        Contiguous tensors.

    Raises:
        ShapeError: If a tensor has another shape, dtype or device, or is not contiguous.
    """
    for buffer in given:
        if buffer is None:
            continue
        same = (buffer.shape, buffer.dtype, buffer.device) == (llr.shape, llr.dtype, llr.device)
        if not (same and buffer.is_contiguous()):
            raise ShapeError(
                "the posterior to be overwritten does not fit",
                given=f"a tensor {tuple(buffer.shape)} of {buffer.dtype} on {buffer.device}",
                accepted=f"contiguous {tuple(llr.shape)} of {llr.dtype} on {llr.device}",
            )
    return [
        torch.empty(llr.shape, dtype=llr.dtype, device=llr.device) if buffer is None else buffer
        for buffer in given
    ]


@functools.cache
def numba_available() -> bool:
    """Whether Numba is installed; it is not imported before it is needed."""
    return importlib.util.find_spec("numba") is not None


def _fastest(llr: Tensor) -> str:
    first = backend_names(llr)[0]
    if first == "compiled" or (first == "triton" and triton_works(llr.device)):
        return first
    if llr.device.type != "cpu":
        return "scan"
    if llr.dtype in _NATIVE and llr.numel() >= _LARGE:
        _warn_once()
    return "torch"


@functools.cache
def triton_works(
    device: torch.device, update: Callable[..., ChainSummary] = triton_scan.update_messages
) -> bool:
    """Whether the Triton kernels solve a small problem on a device as the scan does.

    Compilers, drivers and devices differ: where the kernels fail, the scan takes over, with one
    warning.

    Args:
        device: The device.
        update: The implementation to be tried.

    Returns:
        Whether it ran and found the same messages.
    """
    llr = torch.linspace(-3.0, 3.0, 40, device=device).view(2, 20)
    expected, found, law = torch.empty_like(llr), torch.empty_like(llr), ChainLaw(0.1, 0.3)
    scan.update_messages(llr, None, expected, law, -1)
    try:
        update(llr, None, found, law, -1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    except Exception as error:
        warnings.warn(
            f"message passing on {device} does without Triton, whose kernels fail there: {error}",
            SlowMessagePassingWarning,
            stacklevel=2,
        )
        return False
    return True


def _unmet(name: str, llr: Tensor) -> str | None:
    """What a back end needs, if that is not there."""
    native, device = llr.dtype in _NATIVE, llr.device.type
    if name == "compiled" and not (native and device == "cpu" and numba_available()):
        return "float32 or float64 on the CPU, with Numba (pip install 'pyro-turbovbi[fast]')"
    if name == "triton" and not (native and device == "cuda" and triton_scan.available()):
        return "float32 or float64 on a CUDA device, with Triton (a part of torch's GPU builds)"
    return None


@functools.cache
def _load(name: str) -> Backend:
    elements = (reference.element_evidence, reference.gate_messages)
    if name == "compiled":
        from pyro_turbovbi.kernels import compiled  # importing Numba takes a third of a second

        return Backend(compiled.update_messages, compiled.element_evidence, compiled.gate_messages)
    if name == "triton":
        return Backend(triton_scan.update_messages, *elements)
    if name == "scan":
        return Backend(scan.update_messages, *elements)
    return Backend(reference.update_messages, *elements, doubles=True)


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "message passing over more than a million weights without Numba is about ten times slower: "
        "pip install 'pyro-turbovbi[fast]'",
        SlowMessagePassingWarning,
        stacklevel=2,
    )
