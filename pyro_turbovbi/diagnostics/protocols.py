"""What the diagnostics need of a fit, so that they work on anything that offers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pyro_turbovbi.training import Training


@runtime_checkable
class LikelihoodLike(Protocol):
    """The part of a likelihood that the diagnostics use."""

    @property
    def kind(self) -> str:
        """One of `"classification"`, `"regression"`, `"counts"`."""

    def mean(self, output: Tensor, /) -> Tensor:
        """Predictive mean (class probabilities) given a net's output."""

    def prepare(self, y: Tensor, output: Tensor, /) -> Tensor:
        """Targets in the dtype and shape that the likelihood compares with the output."""


@runtime_checkable
class PredictionLike(Protocol):
    """A posterior predictive distribution over the targets of a batch."""

    @property
    def outputs(self) -> Tensor:
        """Raw net outputs `[samples, points, ...]`."""

    @property
    def mean(self) -> Tensor:
        """Predictive mean `[points, ...]`; class probabilities for classification."""

    @property
    def likelihood(self) -> Any:
        """The `LikelihoodLike` that interprets the outputs."""

    def log_prob(self, y: Tensor, /) -> Tensor:
        """Log predictive density of every target, `[points]`."""


@runtime_checkable
class FitLike(Protocol):
    """A fitted model."""

    @property
    def engine_name(self) -> str:
        """Name of the engine that made it."""

    @property
    def seconds(self) -> float:
        """Training time in wall-clock seconds."""

    @property
    def elbo(self) -> float | None:
        """Final evidence lower bound in nats; None where the engine has none."""

    @property
    def elbo_kind(self) -> str:
        """What `elbo` is: `"bound"`, `"Bethe"` or `"log joint"`."""

    @property
    def bnn(self) -> Any:
        """The lifted net; its `sites` map names to objects with a `prior`."""

    @property
    def training(self) -> Training:
        """Epochs, batch size, data, seed and start of the training."""

    @property
    def learned(self) -> Sequence[str]:
        """Sites whose prior's hyper-parameters were learned."""

    def masks(self) -> Mapping[str, Tensor]:
        """Which weights survive, by site; boolean tensors of the weights' shapes."""

    def predict(self, x: Any, num_samples: int = 32) -> Any:
        """The `PredictionLike` at inputs `x`."""

    def compress(self, data: Any, /) -> Any:
        """The compressed net, verified on `data`."""


@runtime_checkable
class PosteriorFit(Protocol):
    """A fitted net with its posterior: what the diagnostics that look at single draws need."""

    @property
    def engine_name(self) -> str:
        """Name of the engine that made it."""

    @property
    def bnn(self) -> Any:
        """The lifted net, a `BayesianNet`."""

    @property
    def posterior(self) -> Any:
        """The `Posterior` over its weights."""


def site_priors(fit: FitLike) -> Mapping[str, str]:
    """The prior of every weight site, in words, by name of the site."""
    return {name: repr(site.prior) for name, site in fit.bnn.sites.items()}
