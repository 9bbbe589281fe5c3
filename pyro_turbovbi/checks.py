"""Checks of a model against its data, before any training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from pyro_turbovbi.batches import Batch, Inputs, to_device
from pyro_turbovbi.errors import InvalidDataError, ShapeError, TurboVBIError, UnsupportedError
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.likelihoods import Likelihood


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
    """
    first, output = None, None
    for batch in batches:
        _check_finite(batch.x)
        if first is None or output is None:
            first = Batch((to_device(batch.x, device), batch.y.to(device)))
            output = _run(bnn, first)
            _check_rows(first, output)
        bnn.likelihood.check(batch.y.to(device), output)
    if first is None:
        raise InvalidDataError("the loader yields no batch", accepted="at least one batch")
    return first


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


def _check_finite(x: Inputs) -> None:
    for name, value in {"x": x}.items() if isinstance(x, Tensor) else x.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InvalidDataError(
                f"input {name!r} contains NaN or infinite values", accepted="finite inputs"
            )


def _check_rows(batch: Batch, output: object) -> None:
    if not isinstance(output, Tensor):
        raise UnsupportedError(
            "the network does not return one tensor",
            given=type(output).__name__,
            accepted="a net whose forward returns its predictions, one row per data point",
        )
    inputs = {"x": batch.x} if isinstance(batch.x, Tensor) else batch.x
    rows = {"targets": batch.y, "output": output} | {f"input {k!r}": v for k, v in inputs.items()}
    if any(value.dim() == 0 for value in rows.values()) or len(set(map(len, rows.values()))) > 1:
        raise ShapeError(
            "inputs, output and targets of a batch have different numbers of rows",
            given=", ".join(f"{name} {tuple(value.shape)}" for name, value in rows.items()),
            accepted="one row per data point in all of them",
        )


def _run(bnn: BayesianNet, batch: Batch) -> Tensor:
    training = bnn.training
    bnn.eval()
    try:
        output = bnn.output({}, batch.x)
    except TurboVBIError:
        raise
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        x = batch.x
        given = (
            f"{tuple(x.shape)} {x.dtype}"
            if isinstance(x, Tensor)
            else ", ".join(f"{key} {tuple(value.shape)}" for key, value in x.items())
        )
        raise ShapeError(
            f"the network cannot take a batch of inputs ({error})",
            given=f"inputs {given}",
            accepted="inputs of the shape and dtype that the network was written for",
        ) from error
    finally:
        bnn.train(training)
    return output
