"""Posteriors over weights, and predictions from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pyro_turbovbi.batches import Inputs, num_rows
from pyro_turbovbi.checks import check_targets
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.likelihoods import Likelihood
from pyro_turbovbi.priors.base import Moments
from pyro_turbovbi.priors.hyperparameters import Hyperparameters

Weights = dict[str, Tensor]


@runtime_checkable
class Posterior(Protocol):
    """A posterior over the weight sites of one net."""

    def draw(self) -> Weights:
        """One joint draw of all weights, by site name."""

    def mean(self) -> Weights:
        """Posterior means by site name."""

    def scale(self) -> Weights | None:
        """Posterior standard deviations by site name; None where the engine has none to give."""

    def support_probs(self) -> Weights | None:
        """P(s = 1 | data) by name of the sites with a support layer; None where there is none."""

    def gate_probs(self) -> Weights:
        """P(gate open | data) by name of the group of units; empty without shared gates."""

    def moments(self) -> dict[str, Moments]:
        """Moments of the priors' continuous sample sites by name, those that are known.

        They are what `Prior.survivors` reads; the same ones at every call.
        """

    def learned(self) -> dict[str, Hyperparameters]:
        """Hyper-parameters of priors that the engine learned, by name of their weight sites."""


@dataclass(frozen=True, eq=False)
class DiagonalPosterior:
    """Independent normal weights (scale zero: a point).

    Attributes:
        loc: Means by site name.
        scales: Standard deviations by site name.
        support: P(s = 1) by site name, for sites under a three-layer prior.
        hyperparameters: Learned hyper-parameters by site name.
        gates: P(gate open) by name of the group of units.
    """

    loc: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]
    support: Mapping[str, Tensor] | None = None
    hyperparameters: Mapping[str, Hyperparameters] = field(default_factory=dict)
    gates: Mapping[str, Tensor] = field(default_factory=dict)

    def draw(self) -> Weights:
        """See `Posterior.draw`."""
        return {
            n: torch.addcmul(m, self.scales[n], torch.randn_like(m)) for n, m in self.loc.items()
        }

    def mean(self) -> Weights:
        """See `Posterior.mean`."""
        return dict(self.loc)

    def scale(self) -> Weights:
        """See `Posterior.scale`."""
        return dict(self.scales)

    def support_probs(self) -> Weights | None:
        """See `Posterior.support_probs`."""
        return dict(self.support) if self.support else None

    def gate_probs(self) -> Weights:
        """See `Posterior.gate_probs`."""
        return dict(self.gates)

    def moments(self) -> dict[str, Moments]:
        """See `Posterior.moments`."""
        return {name: Moments(mean, self.scales[name]) for name, mean in self.loc.items()}

    def learned(self) -> dict[str, Hyperparameters]:
        """See `Posterior.learned`."""
        return dict(self.hyperparameters)


@dataclass(frozen=True, eq=False)
class SampledPosterior:
    """A posterior known through a way to draw from it, such as an arbitrary Pyro guide.

    Attributes:
        sampler: Returns one joint draw of all weights.
        center: Returns the means (or medians, where the family has them in closed form).
        scales: Standard deviations by site name, where known.
        support: P(s = 1) by site name, for sites under a three-layer prior.
        latents: Returns the moments of the priors' sample sites, where known.
        hyperparameters: Learned hyper-parameters by site name.
        gates: P(gate open) by name of the group of units.
    """

    sampler: Callable[[], Weights]
    center: Callable[[], Weights]
    scales: Mapping[str, Tensor] | None = None
    support: Mapping[str, Tensor] | None = None
    latents: Callable[[], Mapping[str, Moments]] | None = None
    hyperparameters: Mapping[str, Hyperparameters] = field(default_factory=dict)
    gates: Mapping[str, Tensor] = field(default_factory=dict)

    def draw(self) -> Weights:
        """See `Posterior.draw`."""
        return self.sampler()

    def mean(self) -> Weights:
        """See `Posterior.mean`."""
        return self.center()

    def scale(self) -> Weights | None:
        """See `Posterior.scale`."""
        return dict(self.scales) if self.scales else None

    def support_probs(self) -> Weights | None:
        """See `Posterior.support_probs`."""
        return dict(self.support) if self.support else None

    def gate_probs(self) -> Weights:
        """See `Posterior.gate_probs`."""
        return dict(self.gates)

    def moments(self) -> dict[str, Moments]:
        """See `Posterior.moments`."""
        return dict(self.latents()) if self.latents else {}

    def learned(self) -> dict[str, Hyperparameters]:
        """See `Posterior.learned`."""
        return dict(self.hyperparameters)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Posterior predictive at a batch of inputs.

    Attributes:
        outputs: Raw network outputs of each posterior draw, shape [draws, batch, ...].
        likelihood: What the outputs mean.
    """

    outputs: Tensor
    likelihood: Likelihood

    @property
    def mean(self) -> Tensor:
        """Predictive mean of the target (class probabilities), shape [batch, ...]."""
        return torch.stack([self.likelihood.mean(output) for output in self.outputs]).mean(0)

    @property
    def probs(self) -> Tensor:
        """Predictive class probabilities, shape [batch, ..., classes]; the same as `mean`."""
        return self.mean

    @property
    def std(self) -> Tensor:
        """Predictive standard deviation of the target, noise included, shape [batch, ...].

        By the law of total variance: the mean over draws of the noise's variance, and the variance
        over draws of the mean.

        Raises:
            UnsupportedError: for classes, whose probabilities say all.
        """
        if self.likelihood.kind == "classification":
            raise UnsupportedError(
                "classes have no standard deviation",
                given=type(self.likelihood).__name__,
                accepted=".probs, the probability of every class",
            )
        with torch.no_grad():  # learned noise is a parameter
            means = torch.stack([self.likelihood.mean(output) for output in self.outputs])
            noise = [self.likelihood.distribution(output).variance for output in self.outputs]
            return (means.var(0, unbiased=False) + torch.stack(noise).mean(0)).sqrt()

    def log_prob(self, y: Tensor) -> Tensor:
        """Log predictive density of targets, ln mean_s p(y | x, w_s), in nats; shape [batch].

        Raises:
            InvalidDataError, ShapeError: if the targets do not fit the likelihood and the outputs.
        """
        return self.log_likelihood(y).logsumexp(0) - torch.tensor(float(len(self.outputs))).log()

    def log_likelihood(self, y: Tensor) -> Tensor:
        """Log density ln p(y | x, w_s) under every draw s, in nats; shape [draws, batch].

        Raises:
            InvalidDataError, ShapeError: if the targets do not fit the likelihood and the outputs.
        """
        y = y.to(self.outputs.device)
        check_targets(self.likelihood, y, self.outputs[0])
        target = self.likelihood.prepare(y, self.outputs[0])
        terms = [self.likelihood.distribution(output).log_prob(target) for output in self.outputs]
        return torch.stack(terms)


def predict(
    bnn: BayesianNet, posterior: Posterior, x: Inputs, num_samples: int, batch_size: int = 4096
) -> Prediction:
    """Run the net under `num_samples` posterior draws, in eval mode and without gradients.

    A plain loop over draws: unlike a vectorised one it works for every layer.

    Args:
        bnn: The lifted net.
        posterior: Posterior over its weights.
        x: Inputs.
        num_samples: Number of draws; 0 predicts once with the posterior mean.
        batch_size: Rows that go through the net at once.
    """
    training = bnn.training
    bnn.eval()
    try:
        with torch.no_grad():
            draws = (
                (posterior.draw() for _ in range(num_samples))
                if num_samples
                else (posterior.mean(),)
            )
            outputs = [_in_chunks(bnn, weights, x, batch_size) for weights in draws]
    finally:
        bnn.train(training)
    return Prediction(torch.stack(outputs), bnn.likelihood)


def _in_chunks(bnn: BayesianNet, weights: Weights, x: Inputs, size: int) -> Tensor:
    starts = range(0, num_rows(x), size)
    return torch.cat([bnn.output(weights, _rows(x, start, start + size)) for start in starts])


def _rows(x: Inputs, start: int, stop: int) -> Inputs:
    if isinstance(x, Tensor):
        return x[start:stop]
    return {key: value[start:stop] for key, value in x.items()}
