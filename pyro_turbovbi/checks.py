"""Checks of a model against its data, before any training."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pyro_turbovbi._pyro import buffers_kept
from pyro_turbovbi.batches import Batch, Inputs, has_splits, kind_of, to_device
from pyro_turbovbi.errors import (
    InvalidDataError,
    ShapeError,
    TrainingWarning,
    TurboVBIError,
    UnsupportedError,
)
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.likelihoods import Likelihood

#: Root mean square of inputs or targets above which training does not get far.
FAR = 30.0
#: How inputs are brought to a type.
_CASTS = {torch.float32: "x.float()", torch.float64: "x.double()"}
#: Inputs that a net is tried on to find out what was wrong.
_TRIED = 4


@torch.no_grad()
def check_data(bnn: BayesianNet, batches: Iterable[Batch], device: torch.device) -> Batch:
    """Read all data once and hold it against the model.

    Args:
        bnn: The lifted net; it is run once, in eval mode.
        batches: The training data.
        device: Where the net lives.

    Returns:
        The first batch, on the device.

    Raises:
        InvalidDataError: if the data is empty, not finite, or outside the likelihood's domain.
        ShapeError: if the net cannot take the inputs, or the targets do not fit its output.
        UnsupportedError: if the net returns something else than one tensor.

    Warns:
        TrainingWarning: if inputs or real targets are far from unit variance, for which priors and
            learning rates are made.
    """
    first, output = None, None
    for batch in batches:
        _check_finite(batch.x)
        if first is None or output is None:
            first = Batch((to_device(batch.x, device), batch.y.to(device)))
            output = _run(bnn, first)
            _check_output(output)
            _check_rows(batch, {"output": output})
        else:
            _check_rows(batch, {})
        bnn.likelihood.check(batch.y.to(device), output)
    if first is None:
        raise InvalidDataError("the loader yields no batch", accepted="at least one batch")
    _warn_of_units(bnn.likelihood, first)
    return first


@torch.no_grad()
def check_trains(bnn: BayesianNet, batch: Batch) -> None:
    """See whether a net can be trained on a batch of one point, where there is such a batch.

    Batch normalisation cannot, and would say so at the end of the first epoch. The net and the
    random state are left as they were.

    Args:
        bnn: The lifted net; it is run in training mode.
        batch: The smallest batch, on the device.

    Raises:
        ShapeError: if the net cannot.
    """
    if len(batch.y) > 1 or not any(isinstance(m, _BatchNorm) for m in bnn.net.modules()):
        return
    training = bnn.training
    devices = [batch.y.device] if batch.y.is_cuda else []
    try:
        with torch.random.fork_rng(devices=devices), buffers_kept(bnn):
            bnn.train().output({}, batch.x)
    except ValueError as error:
        raise ShapeError(
            "the network cannot be trained on a batch of one data point",
            given=f"a batch of one data point among the others ({error})",
            accepted="another batch_size, or a DataLoader with drop_last=True",
        ) from error
    finally:
        bnn.train(training)


def check_compiles(bnn: BayesianNet, batch: Batch) -> None:
    """Compile a net's training step, where it is to be compiled; nothing is changed.

    Args:
        bnn: The lifted net, in training mode; it has been run on the batch before.
        batch: The first batch, on the device.

    Raises:
        UnsupportedError: if the compiler, or what it has made, fails.
    """
    if bnn.compiler is None:
        return
    parameters = dict(bnn.net.named_parameters())
    weights = {name: parameters[name].detach().clone().requires_grad_() for name in bnn.sites}
    devices = [batch.y.device] if batch.y.is_cuda else []
    try:
        with torch.random.fork_rng(devices=devices), buffers_kept(bnn):
            output = bnn.output(weights, batch.x)
            torch.autograd.grad(output.sum(), list(weights.values()), allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise UnsupportedError(
            "the net cannot be compiled",
            given=f"{type(error).__name__}: {reason}",
            accepted="compile=None, or a compiler that takes this net on this machine",
        ) from error


def _warn_of_units(likelihood: Likelihood, batch: Batch) -> None:
    named = {"x": batch.x} if isinstance(batch.x, Tensor) else dict(batch.x)
    if likelihood.kind == "regression":
        named["the targets"] = batch.y
    far = {
        name: size
        for name, value in named.items()
        if value.is_floating_point()
        and FAR < (size := float(value.square().mean().sqrt())) < float("inf")
    }
    if far:
        sizes = " and ".join(f"of {name} {size:,.4g}" for name, size in far.items())
        warnings.warn(
            f"the root mean square {sizes}, where about 1 is expected: standardise them, for "
            "example by data.Splits.standardised()",
            TrainingWarning,
            stacklevel=4,
        )


def check_targets(likelihood: Likelihood, y: Tensor, output: Tensor) -> None:
    """Hold targets against the outputs that they belong to.

    What does not fit would often broadcast, and give numbers that mean nothing.

    Args:
        likelihood: What the outputs mean.
        y: Targets, shape [points, ...].
        output: The net's outputs, shape [points, ...].

    Raises:
        InvalidDataError: if a target is outside the likelihood's domain.
        ShapeError: if the targets do not fit the outputs.
    """
    if y.dim() == 0 or len(y) != len(output):
        raise ShapeError(
            "targets and outputs have different numbers of rows",
            given=f"targets {tuple(y.shape)}, output {tuple(output.shape)}",
            accepted="one target per output",
        )
    likelihood.check(y, output)


def check_inputs(x: object) -> None:
    """Refuse what is no inputs to predict at.

    Args:
        x: What should be a tensor, or a dict of named tensors, each [points, ...].

    Raises:
        InvalidDataError: if it is something else, or there is no point.
        ShapeError: if named tensors have different numbers of points.
    """
    members = x if isinstance(x, Mapping) else {"x": x}
    named = {name: value for name, value in members.items() if isinstance(value, Tensor)}
    if not members or len(named) < len(members):
        raise InvalidDataError(
            "the inputs are of an unknown kind",
            given=kind_of(x),
            accepted="a tensor, or a dict of tensors for a forward with several arguments"
            + _meant(x),
        )
    shapes = {name: tuple(value.shape) for name, value in named.items()}
    lengths = {shape[:1] for shape in shapes.values()}
    if lengths & {(), (0,)}:
        raise InvalidDataError(
            "the inputs are empty", given=_listed(named), accepted="at least one data point"
        )
    if len(lengths) > 1:
        raise ShapeError(
            "inputs have different numbers of rows",
            given=_listed(named),
            accepted="one row per data point in all of them",
        )


def check_runs(bnn: BayesianNet, x: Inputs) -> None:
    """Run a net on a few of the inputs.

    Raises:
        ShapeError: if it cannot take them.
    """
    error = _failure(bnn, _few(x))
    if error is not None:
        raise _refused(bnn, x, error) from error


@contextmanager
def network_takes(bnn: BayesianNet, x: Inputs) -> Iterator[None]:
    """Context in which a net is run on inputs, and says in words if it cannot take them.

    Other errors keep their words: the net is tried on a few of the inputs once something failed.

    Args:
        bnn: The lifted net.
        x: All inputs, on its device.

    Raises:
        ShapeError: if the net cannot take the inputs.
    """
    try:
        yield
    except TurboVBIError:
        raise
    except Exception as error:
        if _failure(bnn, _few(x)) is not None:
            raise _refused(bnn, x, error) from error
        raise


def _check_finite(x: Inputs) -> None:
    for name, value in {"x": x}.items() if isinstance(x, Tensor) else x.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InvalidDataError(
                f"input {name!r} contains NaN or infinite values", accepted="finite inputs"
            )


def _check_output(output: object) -> None:
    if not isinstance(output, Tensor):
        raise UnsupportedError(
            "the network does not return one tensor",
            given=type(output).__name__,
            accepted="a net whose forward returns its predictions, one row per data point",
        )


def _check_rows(batch: Batch, output: dict[str, Tensor]) -> None:
    inputs = {"x": batch.x} if isinstance(batch.x, Tensor) else batch.x
    named = ", ".join(["inputs", *output])
    rows = {"targets": batch.y} | output | {f"input {k!r}": v for k, v in inputs.items()}
    if any(value.dim() == 0 for value in rows.values()) or len(set(map(len, rows.values()))) > 1:
        raise ShapeError(
            f"{named} and targets of a batch have different numbers of rows",
            given=", ".join(f"{name} {tuple(value.shape)}" for name, value in rows.items()),
            accepted="one row per data point in all of them",
        )


def _run(bnn: BayesianNet, batch: Batch) -> Tensor:
    try:
        with _evaluating(bnn):
            return bnn.output({}, batch.x)
    except (TurboVBIError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        raise _refused(bnn, batch.x, error) from error


@contextmanager
def _evaluating(bnn: BayesianNet) -> Iterator[None]:
    training = bnn.training
    bnn.eval()
    try:
        yield
    finally:
        bnn.train(training)


def _refused(bnn: BayesianNet, x: Inputs, error: Exception) -> ShapeError:
    """The error of a net that cannot take inputs."""
    given = f"inputs {_listed({'x': x} if isinstance(x, Tensor) else x)}"
    accepted = "inputs of the shape and dtype that the network was written for"
    dtype = next((p.dtype for p in bnn.net.parameters() if p.is_floating_point()), None)
    if dtype is not None and _of_other_type(bnn, x, dtype):
        given = f"{given}, a network of {dtype}"
        accepted = f"inputs of {dtype}: {_CASTS.get(dtype, f'x.to({dtype})')}"
    problem = f"the network cannot take a batch of inputs ({error})"
    return ShapeError(problem, given=given, accepted=accepted)


def _of_other_type(bnn: BayesianNet, x: Inputs, dtype: torch.dtype) -> bool:
    """Whether the type of the inputs is all that is wrong with them."""
    if not isinstance(x, Tensor) or x.dtype == dtype:
        return False
    return _failure(bnn, x[:_TRIED].to(dtype)) is None


def _few(x: Inputs) -> Inputs:
    return x[:_TRIED] if isinstance(x, Tensor) else {key: v[:_TRIED] for key, v in x.items()}


def _failure(bnn: BayesianNet, x: Inputs) -> Exception | None:
    """What comes of running a net on inputs, if it fails."""
    try:
        with torch.no_grad(), _evaluating(bnn):
            bnn.output({}, x)
    except Exception as error:  # the net is anybody's
        return error
    return None


def _listed(inputs: Mapping[str, Tensor]) -> str:
    """Shapes and types of inputs."""
    if inputs.keys() == {"x"}:
        return f"{tuple(inputs['x'].shape)} {inputs['x'].dtype}"
    return ", ".join(f"{key} {tuple(value.shape)}" for key, value in inputs.items())


def _meant(x: object) -> str:
    """What was probably meant: the end of a message, or nothing."""
    if isinstance(x, np.ndarray):
        return " (did you mean torch.from_numpy(x)?)"
    if has_splits(x):
        return " (did you mean splits.test.x?)"
    if isinstance(x, tuple | list) and len(x) == 2:
        return " (did you mean the inputs alone, the first of a pair (x, y)?)"
    return ""
