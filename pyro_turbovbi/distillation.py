"""Soft targets: what other networks believe of the training data, in the place of its labels.

A label says which class a point belongs to; a trained network also says how sure that is. A small
network that is fitted to such beliefs has less to explain away, and may need fewer weights for the
same error, if its teachers are better than it is (docs: "Smaller at the same error").

Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", arXiv
1503.02531; here at temperature 1, as a likelihood.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pyro_turbovbi.batches import Data, as_tensors
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError
from pyro_turbovbi.result import Fit

#: Points that a teacher is asked about at a time.
BATCH = 1024


@torch.no_grad()
def soft_targets(
    teachers: nn.Module | Fit | Sequence[nn.Module | Fit], data: Data, *, weight: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Training data whose labels are replaced by the mean belief of some teachers.

    Args:
        teachers: Networks that return logits [batch, C], or fits of lifted classifiers (their
            posterior predictive counts); one of them or several. None of them is changed.
        data: Labelled data (x, y), y class labels [points].
        weight: Share of the teachers' belief in the targets, in (0, 1]; the rest is the label's.

    Returns:
        The pair (x, probabilities), probabilities of shape [points, C]; what `ptv.fit` takes in the
        place of (x, y) under `likelihoods.Categorical`.

    Raises:
        InvalidArgumentError: if there is no teacher, one of them is something else, or `weight` is
            out of range.
        InvalidDataError: if the inputs are several tensors, or the labels are no classes of the
            teachers.
    """
    several = [teachers] if isinstance(teachers, nn.Module | Fit) else list(teachers)
    _check(several, weight)
    x, y = as_tensors(data)
    if not isinstance(x, Tensor):
        raise InvalidDataError("teachers take one input", given=list(x), accepted="one tensor")
    belief = torch.stack([_belief(teacher, x) for teacher in several]).mean(0)
    classes = belief.shape[-1]
    labelled = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if not labelled or y.dim() != 1 or int(y.min()) < 0 or int(y.max()) >= classes:
        raise InvalidDataError(
            "the labels are no classes of the teachers",
            given=f"{y.dtype} of shape {tuple(y.shape)}",
            accepted=f"integers 0 .. {classes - 1} of shape (points,)",
        )
    labels = one_hot(y, classes).to(belief)
    return x, torch.lerp(labels, belief, weight)


def _check(teachers: Sequence[object], weight: float) -> None:
    wrong = [type(one).__name__ for one in teachers if not isinstance(one, nn.Module | Fit)]
    if not teachers or wrong:
        raise InvalidArgumentError(
            "teachers are of the wrong kind",
            given=wrong or "none",
            accepted="torch modules that return logits, or fits",
        )
    if not 0.0 < weight <= 1.0:
        raise InvalidArgumentError("weight is out of range", given=weight, accepted="(0, 1]")


def _belief(teacher: nn.Module | Fit, x: Tensor) -> Tensor:
    """Class probabilities [points, C] on the device of the inputs."""
    if isinstance(teacher, Fit):
        return torch.cat([teacher.predict(part).mean.to(x.device) for part in x.split(BATCH)])
    net = copy.deepcopy(teacher).eval()
    device = next((p.device for p in net.parameters()), x.device)
    return torch.cat([net(part.to(device)).softmax(-1).to(x.device) for part in x.split(BATCH)])


__all__ = ["soft_targets"]
