"""Trains the weights that survived a cut further.

A fit shares its work among all weights. When most of them go, those that are left can take some of
it over: by plain gradient steps on the likelihood, from the posterior means, while the zeros stay.
What comes out is the best of all candidates on validation data, the cut network itself among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_turbovbi._random import seeded
from pyro_turbovbi.batches import Data, TransformedTensors, as_batches, as_tensors
from pyro_turbovbi.checks import check_data
from pyro_turbovbi.compression._tuning import Objective, Points, device_of, tune
from pyro_turbovbi.compression.artifact import serialise
from pyro_turbovbi.compression.compressed import Compressed
from pyro_turbovbi.compression.report import FineTuning
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    UnsupportedError,
)
from pyro_turbovbi.lift import BayesianNet, lift
from pyro_turbovbi.likelihoods import Bernoulli, Categorical, Likelihood

_CHUNK = 1024


@dataclass(frozen=True)
class FineTune:
    r"""How the surviving weights are trained further.

    With weights \(w\) that start at the posterior means \(m\), standard deviations \(s\), and \(N\)
    training points, the loss a point is

    \[(1 - d)\, \mathrm{NLL} + d\, \mathrm{CE}
      + \frac{p}{N} \sum_w \frac{(w - m)^2}{2 s^2}\]

    with \(d\) `distil` and \(p\) `pull`: negative log-likelihood, cross entropy under soft targets,
    and the negative log density of the posterior of the surviving weights.

    Args:
        epochs: Passes over the training data.
        lr: First step of Adam; the steps fall evenly to zero.
        batch_size: Data points a step.
        pull: Weight of the pull to the posterior, >= 0. Weights that the posterior knows well then
            stay near it, weights that it leaves open are free. The posterior has seen the data
            before: at 1 they count twice.
        distil: Share of the soft targets, in [0, 1]: the class probabilities that the uncut
            posterior predicts at the training inputs. The rest of the loss is that of the labels.
        num_samples: Posterior draws behind the soft targets.
        holdout: Share of the training data, in (0, 1), that is held out to choose by where no
            validation data are given.
        seed: Seed of everything random.

    Raises:
        InvalidArgumentError: If an argument is out of its range.
    """

    epochs: int = 20
    lr: float = 3e-3
    batch_size: int = 128
    pull: float = 0.0
    distil: float = 0.0
    num_samples: int = 32
    holdout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "num_samples"):
            value = getattr(self, name)
            _require(type(value) is int and value >= 1, name, value, "1, 2, ...")
        _require(0.0 < self.lr < math.inf, "lr", self.lr, "a positive number")
        _require(0.0 <= self.pull < math.inf, "pull", self.pull, "a number >= 0")
        _require(0.0 <= self.distil <= 1.0, "distil", self.distil, "a share in [0, 1]")
        _require(0.0 < self.holdout < 1.0, "holdout", self.holdout, "a share in (0, 1)")

    def check(self, likelihood: Likelihood, scales: Mapping[str, Tensor]) -> None:
        """Refuses settings that a model has nothing for.

        Args:
            likelihood: What the outputs mean.
            scales: Posterior standard deviations by name; zero for points.

        Raises:
            UnsupportedError: If there are no classes to take soft targets of, or no standard
                deviations to pull with.
        """
        if self.distil and not isinstance(likelihood, Categorical | Bernoulli):
            raise UnsupportedError(
                "soft targets are probabilities of classes",
                given=f"distil={self.distil:g} under {type(likelihood).__name__}",
                accepted="distil=0, or likelihoods.Categorical() or Bernoulli()",
            )
        if self.pull and not any(bool((scale > 0).any()) for scale in scales.values()):
            raise UnsupportedError(
                "there are no posterior standard deviations to pull with",
                given=f"pull={self.pull:g}",
                accepted="pull=0, or a fit by engines.Turbo() or engines.SVI()",
            )


def fine_tune(
    small: Compressed,
    train: Data,
    likelihood: Likelihood,
    *,
    settings: FineTune | None = None,
    validation: Data | None = None,
    soft_targets: Tensor | None = None,
) -> Compressed:
    """Trains the surviving weights and the biases of a cut network further.

    The candidates are, in this order: the network as it is; with the batch norms' statistics taken
    from the training data; with the likelihood's noise, if that is learned, fitted anew; and the
    network after every epoch. Statistics and noise are taken up only if they are better on the
    validation data, and of all candidates the best comes out. The network is in evaluation mode
    throughout: nothing is dropped out, and batch norms keep their statistics in the epochs.

    Args:
        small: The cut network, of an accelerated one that with ordinary layers; it is not touched.
        train: Data (x, y) to train on. They are read once: random views of a loader stay as they
            come, `TransformedTensors` are transformed anew in every epoch.
        likelihood: What the outputs mean; it is not touched.
        settings: How to train. Default: `FineTune()`.
        validation: Data to choose by, best such that the fit has not seen. Default: a random share
            `settings.holdout` of the training data, which then is not trained on here. A fit that
            has seen it makes the network before look better than it is: the choice is cautious.
        soft_targets: Class probabilities that another model predicts for all points of `train`, in
            their order, shape [points, ...] of the outputs; `FineTune(distil=...)` uses them.

    Returns:
        A new result with the same masks and standard deviations. Its report tells what was gained,
            its `likelihood` has the noise that belongs to its outputs.

    Raises:
        InvalidArgumentError: If the network is quantised or none of its parameters can be trained,
            or there are soft targets without `distil` or the other way round.
        InvalidDataError, ShapeError: If data are empty, not finite, or do not fit the network.
        UnsupportedError: See `FineTune.check`.
    """
    settings = settings or FineTune()
    settings.check(likelihood, small.scales)
    small = small.with_ordinary_layers()
    _check_network(small)
    model = lift(small.module, likelihood=likelihood, prior=None).eval()
    model = model.to(next(small.module.parameters()).device)
    with seeded(settings.seed):
        points = _read(train, model)
        soft = _checked_soft(soft_targets, model, points, settings)
        judged = None if validation is None else _read(validation, model)
        points = replace(points, soft=soft)
        if judged is None:
            points, judged = points.split(settings.holdout)
        contest = tune(
            model,
            points,
            judged,
            Objective(settings.distil, *_pull_of(small, settings.pull / len(points))),
            {small.names.get(name, name): mask for name, mask in small.masks.items()},
            epochs=settings.epochs,
            lr=settings.lr,
            batch_size=settings.batch_size,
        )
    losses, best = contest.losses, contest.winner
    record = FineTuning(losses, best, len(points), len(judged), held_out=validation is None)
    size = len(serialise(contest.best.net, surgery=small.surgery))
    return replace(
        small,
        module=contest.best.net,
        report=replace(small.report, bytes=size, fine_tuning=record),
        likelihood=contest.best.likelihood,
    )


def _require(holds: bool, name: str, given: object, accepted: str) -> None:
    if not holds:
        raise InvalidArgumentError(f"{name} is out of range", given=given, accepted=accepted)


def _check_network(small: Compressed) -> None:
    if small.quantisation is not None:
        raise InvalidArgumentError(
            "the weights are rounded already", accepted="fine_tune first, then quantise"
        )
    if not any(parameter.requires_grad for parameter in small.module.parameters()):
        raise InvalidArgumentError(
            "no parameter of the network can be trained", accepted="parameters that require grad"
        )


def _read(data: Data, model: BayesianNet) -> Points:
    """All points of data, held against the network."""
    x, y = as_tensors(data)
    check_data(model, as_batches((x, y), batch_size=_CHUNK, shuffle=False), device_of(model))
    if not isinstance(x, Tensor):
        raise InvalidArgumentError("fine_tune needs a net with one input", given=list(x))
    return Points(x, y, transform=data.transform if isinstance(data, TransformedTensors) else None)


def _checked_soft(
    soft: Tensor | None, model: BayesianNet, points: Points, settings: FineTune
) -> Tensor | None:
    if (soft is not None) != (settings.distil > 0):
        raise InvalidArgumentError(
            "soft targets and their share belong together",
            given=f"distil={settings.distil:g}, soft_targets {'not ' * (soft is None)}given",
            accepted="both or neither",
        )
    if soft is None:
        return None
    with torch.no_grad():
        output = model.net(points.x[:1].to(device_of(model)))
    expected = (len(points), *output.shape[1:])
    if soft.shape != expected:
        raise ShapeError(
            "the soft targets do not fit the training data and the network's output",
            given=tuple(soft.shape),
            accepted=str(expected),
        )
    if not bool(((soft >= 0) & (soft <= 1)).all()):
        raise InvalidDataError("the soft targets are no probabilities", accepted="[0, 1]")
    return soft


def _pull_of(small: Compressed, strength: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Factors of the squared distances, and where the parameters start, by name."""
    if not strength:
        return {}, {}
    # Where there is no standard deviation (a weight that is cut, a point) there is no pull.
    factors = {
        name: torch.where(scale > 0, strength / (2.0 * scale.square()), 0.0)
        for name, scale in small.scales.items()
    }
    return factors, {name: small.module.get_parameter(name).detach().clone() for name in factors}


__all__ = ["FineTune", "fine_tune"]
