"""Checks that two networks compute the same, and that what is given fits them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.graph_tape import numbers_in
from pyro_turbovbi.errors import InvalidDataError, ShapeError, SiteError, VerificationError

TOLERANCE = 1e-5
"""Accepted deviation, relative to the largest output of the network that is known to be right."""
BATCH = 256
"""Number of inputs that are run at once."""
NOISE = 64
"""Number of random inputs that are checked besides the given ones."""


def verify(
    reference: nn.Module,
    candidate: nn.Module,
    inputs: Tensor,
    *,
    names: tuple[str, str] = ("the masked network", "the cut network"),
) -> float:
    """Checks that two networks compute the same.

    Both run in double precision, so that the check sees wrong cuts and not the rounding of either
    network. Random inputs of the same scale are added, because given inputs may never show a
    feature that is wrongly cut.

    Args:
        reference: The network that is known to be right, in evaluation mode.
        candidate: The network to check, in evaluation mode.
        inputs: Shape (points, ...).
        names: What error messages call the two.

    Returns:
        The largest deviation relative to the largest output.

    Raises:
        VerificationError: If that is more than 1e-5.
        UnsupportedError: If a network returns something else than tensors.
    """
    right, checked = names
    pair = [copy.deepcopy(net).double().eval() for net in (reference, candidate)]
    sizes: list[Tensor] = []
    deviations: list[Tensor] = []
    with torch.inference_mode():
        for batch in (*inputs.split(BATCH), _noise_like(inputs)):
            doubled = batch.double() if batch.is_floating_point() else batch
            # A copy for each: a layer of the user's may write into its input.
            expected, actual = (numbers_in(net(doubled.clone())) for net in pair)
            shapes = [[tuple(leaf.shape) for leaf in leaves] for leaves in (expected, actual)]
            if shapes[0] != shapes[1]:
                raise VerificationError(
                    f"the output of {checked} has another shape than that of {right}",
                    given=str(shapes[1]),
                    accepted=str(shapes[0]),
                )
            filled = [(a, b) for a, b in zip(expected, actual, strict=True) if a.numel()]
            sizes += [a.abs().max() for a, _ in filled]
            deviations += [(a - b).abs().max() for a, b in filled]
    # Tensor maxima pass NaN on, so that an overflow in either network fails the check.
    largest, deviation = float(torch.stack(sizes).max()), float(torch.stack(deviations).max())
    error = deviation / largest if largest else deviation
    if not error <= TOLERANCE:
        raise VerificationError(
            f"{checked} does not compute what {right} computes",
            given=f"a deviation of {error:.2e} of the largest output",
            accepted=f"at most {TOLERANCE:g}",
        )
    return error


def largest_deviation(reference: nn.Module, candidate: nn.Module, inputs: Tensor) -> float:
    """How far apart two networks are, in their own precision.

    Args:
        reference: A network in evaluation mode, with one output.
        candidate: Another one, on the same device.
        inputs: Shape (points, ...).

    Returns:
        The largest deviation relative to the largest output of the reference.
    """
    device = next(reference.parameters()).device
    with torch.inference_mode():
        pairs = [(reference(x), candidate(x)) for x in inputs.to(device).split(BATCH)]
    largest = max(float(a.abs().max()) for a, _ in pairs)
    deviation = max(float((a - b).abs().max()) for a, b in pairs)
    return deviation / largest if largest else deviation


def check_inputs(inputs: Tensor) -> None:
    """Refuses inputs that nothing can be checked on.

    Args:
        inputs: What should be finite real numbers of shape (points, ...).

    Raises:
        InvalidDataError: If there is no batch dimension, no point, or a number that is not finite
            or not real.
    """
    if inputs.ndim < 2 or inputs.shape[0] == 0:
        raise InvalidDataError(
            "compression needs a batch of inputs to check on",
            given=f"shape {tuple(inputs.shape)}",
            accepted="shape (points, ...) with at least one point",
        )
    if inputs.is_complex() or not bool(inputs.isfinite().all()):
        raise InvalidDataError(
            "the inputs are not finite real numbers",
            given=str(inputs.dtype),
            accepted="a tensor of floats or integers without NaN and infinity",
        )


def check_scales(net: nn.Module, scales: Mapping[str, Tensor]) -> None:
    """Refuses standard deviations that do not belong to the parameters of a network.

    Args:
        net: The network.
        scales: Parameter name to what should be its standard deviations.

    Raises:
        SiteError: If the network does not have a parameter.
        ShapeError: If the standard deviations of one do not have its shape.
        InvalidDataError: If they are negative or not finite.
    """
    parameters = dict(net.named_parameters(remove_duplicate=False))
    for name, scale in scales.items():
        if name not in parameters:
            raise SiteError(
                "scales are given for a parameter that the network does not have",
                given=name,
                accepted=parameters,
            )
        if scale.shape != parameters[name].shape:
            raise ShapeError(
                f"the scales of '{name}' do not have the shape of their parameter",
                given=str(tuple(scale.shape)),
                accepted=str(tuple(parameters[name].shape)),
            )
        if not bool((scale.isfinite() & (scale >= 0)).all()):
            raise InvalidDataError(
                f"the scales of '{name}' hold negative numbers, NaN or infinity",
                accepted="standard deviations",
            )


def _noise_like(inputs: Tensor) -> Tensor:
    """Random inputs of the same scale; integers are drawn between the least and the largest."""
    generator = torch.Generator().manual_seed(0)
    shape = (NOISE, *inputs.shape[1:])
    if not inputs.is_floating_point():
        low, high = int(inputs.min()), int(inputs.max()) + 1
        drawn = torch.randint(low, high, shape, generator=generator)
        return drawn.to(inputs.device, inputs.dtype)
    scale = inputs.double().square().mean().sqrt().clamp_min(1e-3)
    return torch.randn(shape, generator=generator).to(inputs.device) * scale
