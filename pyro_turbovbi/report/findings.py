"""What a report says about predictions, measured on test data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_turbovbi._random import seeded
from pyro_turbovbi.batches import as_tensors
from pyro_turbovbi.diagnostics.calibration import (
    Reliability,
    probability_integral_transform,
    reliability,
)
from pyro_turbovbi.diagnostics.evaluation import (
    Metrics,
    as_classes,
    evaluate_prediction,
    observed,
    outputs_of,
    point_error,
)
from pyro_turbovbi.result import Fit

_UNSURE = 0.1
"""Share of the points that count as those that the net is least sure of."""
_INTERVAL = 0.9


@dataclass(frozen=True)
class Certainty:
    """How sure a classifier is, and how often it is right.

    Attributes:
        confidence: Mean probability of the answers.
        accuracy: Share of right answers.
        num_points: Points.
        errors: Wrong answers.
        unsure: Points that it is least sure of, a tenth of all.
        errors_unsure: Wrong answers among these.
    """

    confidence: float
    accuracy: float
    num_points: int
    errors: int
    unsure: int
    errors_unsure: int


@dataclass(frozen=True)
class Coverage:
    """How often the intervals of a regression hold the target.

    Attributes:
        level: Share of targets that an interval ought to hold.
        share: Share that it holds.
        num_points: Targets.
    """

    level: float
    share: float
    num_points: int


@dataclass(frozen=True, eq=False)
class Findings:
    """What test data say of a fit, and of the small network that was made from it.

    Attributes:
        metrics: Quality of the predictions of the fit.
        trivial: Error of always giving the most common class, or RMSE of the mean target.
        small_error: Error, or RMSE, of the small network; None without one.
        only_fit_right: Points that the fit gets right and the small network wrong; None unless both
            are classifiers.
        only_small_right: The other way round.
        certainty: None unless it is a classification.
        reliability: None unless it is a classification.
        coverage: None unless it is a regression.
        pit: Values of the probability integral transform; None unless it is a regression.
    """

    metrics: Metrics
    trivial: float
    small_error: float | None = None
    only_fit_right: int | None = None
    only_small_right: int | None = None
    certainty: Certainty | None = None
    reliability: Reliability | None = None
    coverage: Coverage | None = None
    pit: Tensor | None = None

    @property
    def classes(self) -> bool:
        """Whether it is a classification."""
        return self.metrics.error is not None


def find(
    fit: Fit, test: Any, small: nn.Module | None = None, *, num_samples: int = 32, seed: int = 0
) -> Findings:
    """Measures a fit, and a small network beside it, on test data.

    Args:
        fit: The fit.
        test: `DataLoader`, `Dataset` or pair of tensors.
        small: A network that was cut from it; None: none.
        num_samples: Posterior draws that predictions average over.
        seed: Seed of these; the global random state is left as it was.

    Raises:
        InvalidDataError: If there is no point.
    """
    with seeded(seed):
        x, y = as_tensors(test)
        prediction = fit.predict(x, num_samples)
    metrics = evaluate_prediction(prediction, y)
    likelihood, mean = fit.bnn.likelihood, prediction.mean
    target = observed(likelihood, y, prediction.outputs[0])
    mean_small = None
    if small is not None and isinstance(x, Tensor):  # no network of several inputs can be cut
        with torch.no_grad():
            mean_small = likelihood.mean(outputs_of(small, x)).to(mean.device)
    small_error = None if mean_small is None else point_error(likelihood, mean_small, target)[1]
    if likelihood.kind == "classification":
        probs, labels = as_classes(likelihood, mean, target)
        probs_small = None
        if mean_small is not None:
            probs_small = as_classes(likelihood, mean_small, target)[0]
        return _classes(metrics, probs, probs_small, labels, small_error)
    spread = (target.double() - target.double().mean(0)).square().mean().sqrt().item()
    if likelihood.kind != "regression":
        return Findings(metrics, spread, small_error)
    pit = probability_integral_transform(prediction, y)
    return Findings(metrics, spread, small_error, coverage=coverage(pit), pit=pit)


def coverage(pit: Tensor, level: float = _INTERVAL) -> Coverage:
    """How often the central interval of the given level holds the target.

    Args:
        pit: Values of `diagnostics.probability_integral_transform`, any shape.
        level: Share of the distribution inside the interval.
    """
    values = pit.double().flatten()
    inside = (values - 0.5).abs() <= level / 2
    return Coverage(level, inside.double().mean().item(), len(values))


def certainty(probs: Tensor, labels: Tensor) -> Certainty:
    """How sure a classifier is, and how often it is right.

    Args:
        probs: Class probabilities, shape [points, classes].
        labels: True classes, shape [points].
    """
    confidence, answers = probs.double().max(dim=1)
    wrong = answers != labels
    unsure = max(1, round(_UNSURE * len(labels)))
    least = confidence.argsort(stable=True)[:unsure]
    return Certainty(
        confidence=confidence.mean().item(),
        accuracy=1.0 - wrong.double().mean().item(),
        num_points=len(labels),
        errors=int(wrong.sum()),
        unsure=unsure,
        errors_unsure=int(wrong[least].sum()),
    )


def _classes(
    metrics: Metrics,
    probs: Tensor,
    probs_small: Tensor | None,
    labels: Tensor,
    small_error: float | None,
) -> Findings:
    only_fit = only_small = None
    if probs_small is not None:
        right = probs.argmax(1) == labels
        right_small = probs_small.argmax(1) == labels
        only_fit = int((right & ~right_small).sum())
        only_small = int((right_small & ~right).sum())
    return Findings(
        metrics,
        1.0 - labels.bincount().max().item() / len(labels),
        small_error,
        only_fit,
        only_small,
        certainty=certainty(probs, labels),
        reliability=reliability(probs, labels),
    )


__all__ = ["Certainty", "Coverage", "Findings", "certainty", "coverage", "find"]
