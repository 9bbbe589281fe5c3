"""Checks of the numbers that priors are declared with."""

from __future__ import annotations

from numbers import Real

import torch

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from pyro_turbovbi.priors.base import Prior


def is_real(value: object) -> bool:
    """Whether something is a real number, or a tensor that may hold one."""
    return isinstance(value, Real | torch.Tensor)


def a_number(prior: Prior, name: str) -> None:
    """Check that a field is a number, of whatever sign and size.

    Raises:
        InvalidArgumentError: if it is not.
    """
    value = getattr(prior, name)
    if not is_real(value) or value != value:  # NaN alone differs from itself
        raise InvalidArgumentError(
            f"{name} of {_called(prior)} prior is no number", given=value, accepted="a number"
        )


def positive(prior: Prior, *names: str) -> None:
    """Check fields that must be positive and finite.

    Raises:
        InvalidArgumentError: if one of them is not.
    """
    for name in names:
        value = getattr(prior, name)
        if not is_real(value) or not 0.0 < value < float("inf"):
            raise InvalidArgumentError(
                f"{name} of {_called(prior)} prior is out of range",
                given=value,
                accepted="a positive finite number",
            )


def ordered(prior: Prior, small: str, large: str) -> None:
    """Check that one field is smaller than another.

    Raises:
        InvalidArgumentError: if it is not.
    """
    low, high = getattr(prior, small), getattr(prior, large)
    if not low < high:
        raise InvalidArgumentError(
            f"{small} and {large} of {_called(prior)} prior are in the wrong order",
            given=f"{small}={low}, {large}={high}",
            accepted=f"{small} smaller than {large}",
        )


def group_dim(prior: Prior, dim: int | None, name: str, shape: torch.Size) -> int:
    """The dimension that counts the groups of a weight, as a non-negative index.

    Args:
        prior: Whose groups they are.
        dim: As declared; None: dimension 1, the inputs, or 0 where there is no other.
        name: Name of the weight.
        shape: Shape of the weight.

    Raises:
        ShapeError: if the weight has no such dimension.
    """
    rank = len(shape)
    wanted = min(1, rank - 1) if dim is None else dim
    if not -rank <= wanted < rank or rank == 0:
        raise ShapeError(
            f"weight {name!r} has no dimension {wanted} for the groups of {_called(prior)} prior",
            given=f"shape {tuple(shape)}",
            accepted=f"dim from {-rank} to {rank - 1}" if rank else "a weight with dimensions",
        )
    return wanted % rank


def _called(prior: Prior) -> str:
    name = type(prior).__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
