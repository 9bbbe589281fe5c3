r"""Weights rounded to the precision that their posterior has.

Rounding the mean of N(m, s^2) to a grid of step d adds an error e, uniform on [-d/2, d/2], and the
Kullback-Leibler divergence e^2 / (2 s^2): on average d^2 / (24 s^2) nats. With one step a tensor,
d = c / sqrt(mean(1 / s^2)), that is c^2 / 24 nats a weight whatever the tensor: the posterior
itself says how coarse the grid of every layer may be, and one number c is left to choose. This is
the bits-back view of precision (G. Hinton and D. van Camp, "Keeping neural networks simple by
minimizing the description length of the weights", COLT 1993).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_turbovbi.checks import check_targets
from pyro_turbovbi.compression._tuning import nll
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    UnsupportedError,
    VerificationError,
)
from pyro_turbovbi.lift import BIAS_NAMES, MATRIX_LAYERS
from pyro_turbovbi.likelihoods import Likelihood

Loss = Callable[[Tensor, Tensor], Tensor | float]
"""Maps outputs and targets of all points to a scalar, smaller for better."""

PER_OCTAVE = 4
FINEST, COARSEST = -8 * PER_OCTAVE, 3 * PER_OCTAVE
"""Range of the search: c from 2^-8 to 2^3, in quarters of octaves."""
RELATIVE_SCALE = 1 / 8
"""Stands for s, as a share of the weights' root mean square, where no posterior is known."""
_LAYERS = (*MATRIX_LAYERS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MANTISSA_BITS = 4
_CHUNK = 1024
_IGNORED = -100
"""The label of points that `torch.nn.functional.cross_entropy` leaves out."""
_OTHERWISE = "loss=..., or compress(likelihood=...), as Fit.compress does"


class Step(NamedTuple):
    """A step of a grid: mantissa * 2^exponent.

    With a mantissa of four bits the points of the grid are floating-point numbers without
    rounding, and a step takes two small numbers in a file.

    Attributes:
        mantissa: 8 to 15.
        exponent: A power of two.
    """

    mantissa: int
    exponent: int

    @property
    def size(self) -> float:
        """The step as a number."""
        return math.ldexp(self.mantissa, self.exponent)

    @classmethod
    def near(cls, size: float) -> Step:
        """The largest step that is not larger than a positive number."""
        fraction, exponent = math.frexp(size)
        return cls(math.floor(math.ldexp(fraction, _MANTISSA_BITS)), exponent - _MANTISSA_BITS)


@dataclass(frozen=True)
class Quantisation:
    """How a network was quantised.

    Attributes:
        coarseness: c, the step in posterior standard deviations.
        steps: Step of the grid by parameter name of the quantised module.
        loss: Loss of the quantised network on the validation data.
        loss_exact: The same before.
    """

    coarseness: float
    steps: Mapping[str, Step]
    loss: float
    loss_exact: float


def quantised(
    module: nn.Module, scales: Mapping[str, Tensor], coarseness: float
) -> tuple[nn.Module, dict[str, Step]]:
    """Rounds the weights and biases of linear, convolution and attention layers to grids.

    Other parameters, and statistics of batch norms, stay as they are. A weight within half a step
    of zero becomes zero.

    Args:
        module: The network; it is not touched.
        scales: Posterior standard deviations by parameter name; a weight without them is treated as
            if they were an eighth of the root mean square of its entries, a bias is put on the grid
            of its weight.
        coarseness: c.

    Returns:
        A copy of the module, and the step by parameter name.
    """
    result, steps = copy.deepcopy(module), dict[str, Step]()
    names = {id(parameter): name for name, parameter in result.named_parameters()}
    for layer in result.modules():
        if not isinstance(layer, _LAYERS):
            continue
        size: float | None = None
        for kind, parameter in layer.named_parameters(recurse=False):  # the weight comes first
            name = names.get(id(parameter))
            # Not if it is made of others at each call, or shared and rounded already.
            if name is None or name in steps or not parameter.is_floating_point():
                continue
            if kind not in BIAS_NAMES or name in scales:
                size = _size(parameter, scales.get(name), coarseness)
            step = None if size is None else _step(parameter, size)
            if step is not None:
                steps[name] = step
                _round(parameter, step)
    return result, steps


def search(
    module: nn.Module,
    scales: Mapping[str, Tensor],
    loss_of: Callable[[nn.Module], float],
    tolerance: float,
) -> tuple[nn.Module, Quantisation]:
    """The coarsest grids that a loss tolerates, by bisection.

    The loss need not grow evenly with c; what is returned has been evaluated and is within the
    tolerance.

    Args:
        module: The network; it is not touched.
        scales: Posterior standard deviations by parameter name.
        loss_of: The loss of a network on the validation data.
        tolerance: By how much it may grow.

    Returns:
        The quantised network and how it came about.

    Raises:
        InvalidArgumentError: If the tolerance is negative or no number.
        InvalidDataError: If the loss of the exact network is not finite.
        VerificationError: If even the finest grids cost more than that.
    """
    if not tolerance >= 0:
        raise InvalidArgumentError("tolerance is out of range", given=tolerance, accepted=">= 0")
    exact = loss_of(module)
    if not math.isfinite(exact):
        raise InvalidDataError(
            "the loss of the exact network is not finite",
            given=exact,
            accepted="validation data on which it is",
        )

    def attempt(place: int) -> tuple[nn.Module, Quantisation] | None:
        coarseness = 2.0 ** (place / PER_OCTAVE)
        candidate, steps = quantised(module, scales, coarseness)
        loss = loss_of(candidate)
        if not loss <= exact + tolerance:
            return None
        return candidate, Quantisation(coarseness, steps, loss, exact)

    best, low, high = attempt(FINEST), FINEST, COARSEST + 1
    if best is None:
        raise VerificationError(
            "the finest quantisation costs more than the tolerance",
            given=f"tolerance={tolerance:g} over a loss of {exact:g}",
            accepted="a larger tolerance",
        )
    while high - low > 1:
        middle = (low + high) // 2
        found = attempt(middle)
        low, high = (middle, high) if found else (low, middle)
        best = found or best
    return best


def loss_on(
    x: Tensor, y: Tensor, loss: Loss | None = None, likelihood: Likelihood | None = None
) -> Callable[[nn.Module], float]:
    """The loss on validation data as a function of the network.

    Args:
        x: Inputs, shape [points, ...].
        y: Targets, shape [points, ...].
        loss: The loss; None takes the mean negative log-likelihood in nats a data point.
        likelihood: What the outputs mean. Where that is not known and no loss is given, it is
            guessed: integer targets are classes and outputs `[points, classes, ...]` their logits,
            under the cross entropy in nats; for everything else it is the root mean square error.

    Returns:
        Maps a network to its loss. It raises `UnsupportedError` if the network returns something
            else than one tensor, and `ShapeError` or `InvalidDataError` if the targets do not fit
            the default loss.
    """
    chosen = loss or _default_loss(y, likelihood)

    def value(module: nn.Module) -> float:
        device = next((p.device for p in module.parameters()), x.device)
        with torch.inference_mode():
            parts = [module(part.to(device)) for part in x.split(_CHUNK)]
            if not isinstance(parts[0], Tensor):
                raise UnsupportedError(
                    "the network does not return one tensor",
                    given=type(parts[0]).__name__,
                    accepted="a network that does, to measure its loss on validation data",
                )
            return float(chosen(torch.cat(parts), y.to(device)))

    return value


def _size(parameter: Tensor, scales: Tensor | None, coarseness: float) -> float:
    """The standard deviation that stands for all of a tensor, times c."""
    values = parameter.detach().double()
    kept = values != 0
    if scales is not None and bool(kept.any()) and bool((scales[kept] > 0).all()):
        return coarseness / math.sqrt(float(scales[kept].double().square().reciprocal().mean()))
    if not bool(kept.any()):
        return coarseness
    return coarseness * RELATIVE_SCALE * float(values[kept].square().mean().sqrt())


def _step(parameter: Tensor, size: float) -> Step | None:
    """The step near a size, but not so small that numbers of the grid would need rounding."""
    digits = 1 - round(math.log2(torch.finfo(parameter.dtype).eps))
    largest = float(parameter.detach().abs().max()) if parameter.numel() else 0.0
    size = max(size, math.ldexp(largest, _MANTISSA_BITS + 1 - digits))
    if not 2.0**-100 < size < 2.0**100:  # subnormal or overflowing grids are no use to anybody
        return None
    return Step.near(size)


def _round(parameter: nn.Parameter, step: Step) -> None:
    with torch.no_grad():
        counts = (parameter.double() / step.size).round()
        # Adding zero turns -0.0 into 0.0, which files leave out.
        parameter.copy_(counts * step.size + 0.0)


def _default_loss(y: Tensor, likelihood: Likelihood | None) -> Loss:
    if likelihood is not None:
        return functools.partial(_mean_nll, likelihood)
    return _root_mean_square if y.is_floating_point() else _cross_entropy


def _mean_nll(likelihood: Likelihood, outputs: Tensor, targets: Tensor) -> Tensor:
    likelihood = copy.deepcopy(likelihood).to(outputs.device)
    check_targets(likelihood, targets, outputs)
    return nll(likelihood, outputs, targets).double().mean()


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    wanted = (len(outputs), *outputs.shape[2:])
    if outputs.dim() < 2 or outputs.shape[1] < 2 or targets.shape != wanted:
        raise ShapeError(
            "integer targets count as classes, and the outputs are no logits of theirs",
            given=f"targets {tuple(targets.shape)}, outputs {tuple(outputs.shape)}",
            accepted=f"targets (points, ...) and outputs (points, classes, ...); or {_OTHERWISE}",
        )
    classes = outputs.shape[1]
    labels = targets[targets != _IGNORED]
    if bool(((labels < 0) | (labels >= classes)).any()):
        raise InvalidDataError(
            "integer targets count as classes, and some are out of range",
            given=f"{int(labels.min())} .. {int(labels.max())}",
            accepted=f"0 .. {classes - 1}, since the network has {classes} outputs; "
            f"or {_OTHERWISE}",
        )
    return F.cross_entropy(outputs, targets.long())


def _root_mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    if len(targets) != len(outputs) or targets.numel() != outputs.numel():
        raise ShapeError(
            "the root mean square error needs a target for every output",
            given=f"targets {tuple(targets.shape)}, outputs {tuple(outputs.shape)}",
            accepted=f"targets of the outputs' shape; or {_OTHERWISE}",
        )
    return (outputs.double() - targets.double().reshape(outputs.shape)).square().mean().sqrt()
