"""What the end of a training is looked at for: layers that are empty, layers that stayed dense."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pyro_turbovbi.batches import Batch
from pyro_turbovbi.errors import TrainingWarning
from pyro_turbovbi.priors.hyperparameters import declared
from pyro_turbovbi.result import Fit

#: Steps of a training below which supports have not had the time to say anything.
FEWEST_STEPS = 100
#: Weights of a layer from which on it should not stay dense, and what counts as dense.
LARGE, DENSE = 300, 0.99
#: Density that a prior may have at most for a dense layer to be a surprise.
SPARSE_PRIOR = 0.9
#: Change of the mean log-likelihood of a batch, in nats a point, that counts as none.
AGREEMENT = 0.02

_EMPTY_CAUSES = (
    "a support prior or shared gates that are too sparse for these data, a KL weight that is too "
    "large, or too few epochs"
)
_DENSE_CAUSES = (
    "too few steps or too low a learning rate for the supports to move, a spike that is narrow "
    'from the start, factorisation="mean_field", a KL weight that is too small, or a guide whose '
    "gradients of supports are too noisy"
)


def check_supports(fit: Fit, example: Batch, steps: int) -> None:
    """Warn of layers that a training has emptied or left dense, in one `TrainingWarning`.

    Args:
        fit: The result.
        example: A batch of training data, on the net's device.
        steps: Steps that were taken; after less than `FEWEST_STEPS` nothing is said.
    """
    probs = fit.posterior.support_probs() or {}
    if steps < FEWEST_STEPS or not probs:
        return
    masks = {name: p > 0.5 for name, p in probs.items()}
    problems = [*_emptied(fit, masks, example), *_dense(fit, masks)]
    if problems:
        warnings.warn("; ".join(problems), TrainingWarning, stacklevel=3)


def _emptied(fit: Fit, masks: Mapping[str, Tensor], example: Batch) -> Iterator[str]:
    """Empty layers, unless the net does without them and still listens to its inputs.

    A branch beside which there is another one may go.
    """
    empty = [name for name, mask in masks.items() if not bool(mask.any())]
    if not empty:
        return
    mean = fit.posterior.mean()
    pruned = {name: w * masks[name] if name in masks else w for name, w in mean.items()}
    (_, before), (cut, after) = (_run(fit, weights, example) for weights in (mean, pruned))
    if bool((cut == cut[:1]).all()) and len(cut) > 1:
        consequence = "the network without its inactive weights does not depend on its inputs"
    elif not abs(before - after) <= AGREEMENT:
        consequence = (
            f"the network without its inactive weights has a log-likelihood of {after:.3g} nats a "
            f"point, and {before:.3g} with them"
        )
    else:
        return
    names = ", ".join(map(repr, empty))
    yield f"no weight of {names} is left, and {consequence} (likely cause: {_EMPTY_CAUSES})"


def _dense(fit: Fit, masks: Mapping[str, Tensor]) -> Iterator[str]:
    for name, mask in masks.items():
        share = float(mask.float().mean())
        prior = declared(fit.bnn.sites[name]).get("density", 1.0)
        if mask.numel() >= LARGE and share > DENSE and prior < SPARSE_PRIOR:
            yield (
                f"{share:.1%} of the weights of {name!r} are left, where the prior expects "
                f"{prior:.1%} (likely cause: {_DENSE_CAUSES})"
            )


@torch.no_grad()
def _run(fit: Fit, weights: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, float]:
    """The net's output on a batch, and its mean log-likelihood in nats a point."""
    output = fit.bnn.output(weights, batch.x)
    target = fit.bnn.likelihood.prepare(batch.y, output)
    log_prob = fit.bnn.likelihood.distribution(output).log_prob(target)
    return output, float(log_prob.mean())
