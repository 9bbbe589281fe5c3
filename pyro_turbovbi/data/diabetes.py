"""The diabetes data that come with scikit-learn: a regression without download."""

from __future__ import annotations

from dataclasses import replace

import torch

from pyro_turbovbi.data._optional import optional
from pyro_turbovbi.data.splits import Splits, TensorPair, divide


def diabetes(seed: int = 0, *, validation: float = 0.1, test: float = 0.1) -> Splits:
    """Loads scikit-learn's diabetes data: 442 patients, ten measurements, progress after a year.

    Mean and standard deviation of the inputs and of the target come from the training points alone
    and are applied to all three parts.

    Args:
        seed: Seed of the division.
        validation: Fraction of the points to choose settings on.
        test: Fraction of the points to report on.

    Returns:
        Inputs `[points, 10]` and targets `[points]`, float32; `target_mean` and `target_scale` lead
        back to the target's own unit, a score between 25 and 346.

    Raises:
        InvalidArgumentError: If the fractions leave no training point.
        UnsupportedError: If scikit-learn is not installed.
    """
    problem = "diabetes needs scikit-learn, which is not installed"
    raw = optional("sklearn.datasets", problem, "demo").load_diabetes(scaled=False)
    everything = TensorPair(torch.as_tensor(raw.data), torch.as_tensor(raw.target))
    splits = divide(everything, validation=validation, test=test, seed=seed)
    return replace(splits, columns=tuple(raw.feature_names), target="progress").standardised()


__all__ = ["diabetes"]
