"""Telling inputs unlike the training data from those like it, by the uncertainty of predictions.

Three scores, each larger where the net is less sure. With p_s = p(y | x, w_s) of draw s and their
mean p, in nats:

    max_probability        1 - max_c p_c
    entropy                H[p]                                total uncertainty
    mutual_information     H[p] - mean_s H[p_s]                disagreement of the draws

The last one is zero for a point estimate, however unsure it is: only a posterior has it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi._random import seeded
from pyro_turbovbi.batches import Data, as_tensors
from pyro_turbovbi.diagnostics.protocols import FitLike, LikelihoodLike, PredictionLike
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, UnsupportedError
from pyro_turbovbi.likelihoods import Bernoulli

Score = Literal["max_probability", "entropy", "mutual_information"]


class Uncertainty(NamedTuple):
    """Scores of every point, larger where the net is less sure.

    Attributes:
        max_probability: One minus the probability of the most probable class.
        entropy: Entropy of the predictive distribution, in nats.
        mutual_information: Between class and weights, in nats.
    """

    max_probability: Float[Tensor, " points"]
    entropy: Float[Tensor, " points"]
    mutual_information: Float[Tensor, " points"]


@torch.no_grad()
def uncertainty(prediction: PredictionLike) -> Uncertainty:
    """Scores of a classification; a point with several targets has the mean of theirs.

    Args:
        prediction: A posterior predictive at N points.

    Raises:
        UnsupportedError: If it is no classification.
    """
    likelihood = prediction.likelihood
    if likelihood.kind != "classification":
        raise UnsupportedError(
            "these scores need class probabilities",
            given=f"{type(likelihood).__name__}, {likelihood.kind}",
            accepted="a classification",
        )
    probs = torch.stack([_classes(likelihood, output) for output in prediction.outputs])
    mean = probs.mean(0)
    entropy = _entropy(mean)
    return Uncertainty(
        _per_point(1.0 - mean.max(-1).values),
        _per_point(entropy),
        _per_point((entropy - _entropy(probs).mean(0)).clamp(min=0.0)),
    )


def auroc(positives: Float[Tensor, " positives"], negatives: Float[Tensor, " negatives"]) -> float:
    """Probability that a random positive has a larger score than a random negative.

    The area under the receiver operating characteristic, exact: from ranks (the Mann-Whitney
    statistic), with ties counted half.

    Args:
        positives: Scores of the points that ought to have large ones.
        negatives: Scores of the others.

    Returns:
        A number in [0, 1]; 1/2 for scores that say nothing.

    Raises:
        InvalidDataError: If there is no score on one side, or one is NaN.
    """
    if not len(positives) or not len(negatives):
        raise InvalidDataError(
            "there is nothing to tell apart",
            given=f"{len(positives)} positives, {len(negatives)} negatives",
            accepted="at least one of each",
        )
    if bool(positives.isnan().any() or negatives.isnan().any()):
        raise InvalidDataError("a score is NaN", accepted="scores that have an order")
    ordered = negatives.sort().values
    below = torch.searchsorted(ordered, positives.to(ordered).contiguous(), right=False)
    not_above = torch.searchsorted(ordered, positives.to(ordered).contiguous(), right=True)
    return float((below + not_above).double().mean()) / (2.0 * len(negatives))


def ood_auroc(
    fit: FitLike,
    inside: Data,
    outside: Data,
    *,
    score: Score = "entropy",
    num_samples: int = 32,
    seed: int = 0,
) -> float:
    """How well a fit's uncertainty tells inputs from elsewhere from those of its test set.

    Args:
        fit: A fitted classifier.
        inside: Data like the training data: `DataLoader`, `Dataset` or pair of tensors; its targets
            are not looked at.
        outside: Data from elsewhere, of the same input shape.
        score: One of `Uncertainty`'s.
        num_samples: Posterior draws that each prediction averages over.
        seed: Seed of the draws; the global random state is left as it was.

    Returns:
        The AUROC, `outside` being the positives.

    Raises:
        InvalidArgumentError: If the score is unknown.
        InvalidDataError: If a data set is empty.
        UnsupportedError: If the fit is no classifier.
    """
    if score not in Uncertainty._fields:
        raise InvalidArgumentError("unknown score", given=score, accepted=Uncertainty._fields)
    with seeded(seed):
        scores = [
            getattr(uncertainty(fit.predict(as_tensors(data)[0], num_samples=num_samples)), score)
            for data in (outside, inside)
        ]
    return auroc(*scores)


def _classes(likelihood: LikelihoodLike, output: Tensor) -> Tensor:
    """Class probabilities `[points, ..., classes]`; binary outputs become two classes.

    The complement of a binary output is computed from the negative logit, not as 1 - p.
    """
    output = output.double()
    if isinstance(likelihood, Bernoulli):
        return torch.stack([(-output).sigmoid(), output.sigmoid()], dim=-1)
    return likelihood.mean(output)


def _entropy(probs: Tensor) -> Tensor:
    """-sum_c p_c ln p_c in nats, over the last dimension."""
    terms: Tensor = torch.special.entr(probs)
    return terms.sum(-1)


def _per_point(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1) if values.dim() > 1 else values
