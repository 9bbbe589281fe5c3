"""Hands a cut network to other runtimes: `torch.export` and ONNX."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.graph_tape import numbers_in
from pyro_turbovbi.errors import StorageError, UnsupportedError, VerificationError

OPSET = 20
"""Version of ONNX's operators that is written by default."""
TOLERANCE = 1e-4
"""Accepted deviation of the exported network, relative to the largest output: both runtimes compute
in single precision, in different orders."""
BATCHES = (1, 3)
"""Sizes of the batches that an exported network is checked on, besides the whole example."""


def exported(module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """A network as a graph of torch's operators, for batches of any size.

    Args:
        module: A network in evaluation mode.
        example: An input batch, shape (batch, ...), at least two inputs.

    Returns:
        The program; `torch.export.save` writes it.

    Raises:
        UnsupportedError: If torch cannot export the network.
    """
    batch = torch.export.Dim.DYNAMIC
    try:
        with _quiet():
            return torch.export.export(
                module, (_at_least_two(example),), dynamic_shapes=({0: batch},)
            )
    except Exception as error:  # user code is traced here: anything may come out
        raise UnsupportedError(
            f"torch cannot export the network: {_line(error)}",
            given=type(module).__name__,
            accepted="a forward method that torch.export can trace, for batches of any size",
        ) from error


def write_onnx(
    module: nn.Module,
    example: Tensor,
    path: str | os.PathLike[str],
    *,
    opset: int = OPSET,
    check: bool = True,
) -> str:
    """Writes a network as an ONNX file for batches of any size.

    Args:
        module: A network in evaluation mode.
        example: An input batch, shape (batch, ...).
        path: Where to write.
        opset: Version of ONNX's operators.
        check: Whether to run the file in ONNX Runtime and compare, on the example and on batches of
            other sizes.

    Returns:
        The path.

    Raises:
        UnsupportedError: If the extra `onnx` is not installed, or the network cannot be exported,
            or not to that version of the operators.
        StorageError: If the file cannot be written.
        VerificationError: If the file computes something else by more than 1e-4 of the largest
            output; it is not kept.
    """
    _require("onnx", "onnxscript", *(["onnxruntime"] if check else []))
    program = exported(module, example)
    try:
        with _quiet():
            model = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False)
            assert model is not None
        written = model.model.opset_imports[""]
        if written != opset:  # of which the exporter makes a note and no error
            raise UnsupportedError(
                "the network cannot be written for this version of ONNX's operators",
                given=f"opset {opset}",
                accepted=f"opset={OPSET}, the default, or opset={written}",
            )
        model.save(path)
    except UnsupportedError:
        raise
    except OSError as error:
        raise StorageError.of("the file cannot be written", path, error) from error
    except Exception as error:  # the exporter's own errors have no common root
        raise UnsupportedError(
            f"torch cannot write the network as ONNX: {_line(error)}",
            given=f"opset {opset}",
            accepted="operators that ONNX has",
        ) from error
    if check:
        try:
            _check(module, example, path)
        except VerificationError:
            Path(path).unlink()
            raise
    return os.fspath(path)


def _check(module: nn.Module, example: Tensor, path: str | os.PathLike[str]) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    for size in {min(size, len(example)) for size in (*BATCHES, len(example))}:
        batch = example[:size].cpu()
        with torch.inference_mode():
            expected = [t.cpu() for t in numbers_in(module(example[:size].clone()))]
        made = session.run(None, {name: batch.numpy()})
        actual = numbers_in([torch.from_numpy(each) for each in made])
        _compare(expected, actual, size)


def _compare(expected: list[Tensor], actual: list[Tensor], size: int) -> None:
    for one, other in zip(expected, actual, strict=True):
        if one.shape != other.shape:
            raise VerificationError(
                f"the ONNX file's output for a batch of {size} has another shape",
                given=str(tuple(other.shape)),
                accepted=str(tuple(one.shape)),
            )
        deviation = float((one - other).abs().max()) if one.numel() else 0.0
        if not deviation <= TOLERANCE * (float(one.abs().max()) if one.numel() else 1.0):
            raise VerificationError(
                f"the ONNX file does not compute what the network computes, for a batch of {size}",
                given=f"a deviation of {deviation:.2e}",
                accepted=f"at most {TOLERANCE:g} of the largest output",
            )


def _line(error: Exception) -> str:
    """The first line of a message: the exporters print their whole state below it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _at_least_two(example: Tensor) -> Tensor:
    """A batch of one would be taken for a constant size."""
    few = example[:2]
    return few if len(few) == 2 else few.repeat(2, *(1 for _ in few.shape[1:]))


def _require(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            "writing ONNX needs packages that are not installed",
            given=f"without {', '.join(missing)}",
            accepted='pip install "pyro-turbovbi[onnx]"',
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes about itself: deprecations inside it, absent torchvision."""
    levels = {each: each.level for each in map(logging.getLogger, ("torch.onnx", "onnxscript"))}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


__all__ = ["exported", "write_onnx"]
