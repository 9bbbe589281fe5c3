"""How well an estimated support agrees with a known one."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor


def f1_score(estimated: Bool[Tensor, "*shape"], true: Bool[Tensor, "*shape"]) -> float:
    """F1 score of an estimated support: harmonic mean of precision and recall.

    Args:
        estimated: Estimated support, any shape.
        true: True support, same shape.

    Returns:
        `2 hits / (estimated + true)` in [0, 1]; 1 where both are empty.
    """
    sizes = int(estimated.sum()) + int(true.sum())
    return 2 * int((estimated & true).sum()) / sizes if sizes else 1.0
