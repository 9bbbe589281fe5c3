"""Observation models: what the network's output means.

A likelihood turns an output tensor of shape [batch, ...] into a Pyro distribution over targets
whose first dimension is the batch. Learned parameters (the noise of `Gaussian`) are ordinary
`nn.Parameter`s, trained as points.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import log
from typing import ClassVar, Literal

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, ShapeError
from pyro_turbovbi.priors._checks import is_real

Kind = Literal["classification", "regression", "counts"]

#: By how much the probabilities of a soft target may miss 1 by rounding.
_PROBABILITY_SUM = 1e-3


class Likelihood(nn.Module, ABC):
    """Base of all likelihoods: `distribution` and the checks of targets.

    Targets are checked once, by `check`, before training: the distributions themselves do not
    validate their arguments again at every step.
    """

    kind: ClassVar[Kind]

    @abstractmethod
    def distribution(self, output: Tensor) -> TorchDistributionMixin:
        """The law of the targets given the net's output.

        Args:
            output: Shape [batch, ...].

        Returns:
            A distribution of batch shape [batch]; all further dimensions are event dimensions.
        """

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """Expected target (classification: class probabilities, shape of `output`)."""

    def prepare(self, y: Tensor, output: Tensor) -> Tensor:
        """Bring targets to the dtype and shape that `distribution(output)` observes."""
        return y

    def check(self, y: Tensor, output: Tensor) -> None:
        """Check targets against the likelihood's domain and the output's shape.

        Raises:
            InvalidDataError: if a value lies outside the domain.
            ShapeError: if the shapes do not fit.
        """
        if y.is_floating_point() and not bool(torch.isfinite(y).all()):
            raise InvalidDataError(
                "the targets contain NaN or infinite values", accepted="finite targets"
            )
        self._check_domain(y, output)
        expected = self.distribution(output[:1]).event_shape
        given = self.prepare(y, output).shape[1:]
        if given != expected:
            raise ShapeError(
                f"targets do not fit the network's output under {type(self).__name__}",
                given=f"targets {tuple(y.shape)}, output {tuple(output.shape)}",
                accepted=f"targets of shape (batch, {', '.join(map(str, expected))})".replace(
                    ", )", ")"
                ),
            )

    @abstractmethod
    def _check_domain(self, y: Tensor, output: Tensor) -> None: ...


def _with_events(distribution: TorchDistributionMixin) -> TorchDistributionMixin:
    batched: TorchDistributionMixin = distribution.to_event(len(distribution.batch_shape) - 1)
    return batched


def _squeeze_like(y: Tensor, output: Tensor) -> Tensor:
    """Targets of shape [batch] for an output of shape [batch, 1], as most data sets have them."""
    y = y.to(output.dtype)
    return y.unsqueeze(-1) if y.dim() == output.dim() - 1 and output.shape[-1] == 1 else y


class _SoftCategorical(dist.Categorical):
    """A categorical law that can also be asked for the expected log-probability of a soft target.

    With the class probabilities t of a teacher that is sum_c t_c ln p_c, the log-likelihood of a
    class drawn from t in expectation.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Of classes [*batch], or of class probabilities [*batch, C]."""
        if value.is_floating_point():
            return (value * self.logits).sum(-1)  # logits are normalised
        log_prob: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return log_prob


class Categorical(Likelihood):
    """Classes 0 .. C - 1; the output's last dimension holds C logits.

    Targets are class labels, or soft ones: the probabilities of all classes (floats of the output's
    shape), as `soft_targets` makes them.
    """

    kind = "classification"

    def distribution(self, output: Tensor) -> TorchDistributionMixin:
        """See `Likelihood.distribution`; output [batch, ..., C]."""
        return _with_events(_SoftCategorical(logits=output, validate_args=False))

    def check(self, y: Tensor, output: Tensor) -> None:
        """See `Likelihood.check`; soft targets have to be probabilities of the output's shape."""
        if not (y.is_floating_point() and y.shape[1:] == output.shape[1:]):
            super().check(y, output)
        elif not bool(((y >= 0).all(-1) & ((y.sum(-1) - 1.0).abs() < _PROBABILITY_SUM)).all()):
            raise InvalidDataError(
                "soft targets are no class probabilities",
                given=f"values in [{float(y.min()):g}, {float(y.max()):g}]",
                accepted="numbers of at least 0 that sum to 1 over the last dimension",
            )

    def mean(self, output: Tensor) -> Tensor:
        """Class probabilities, shape of `output`."""
        return output.softmax(-1)

    def _check_domain(self, y: Tensor, output: Tensor) -> None:
        if output.dim() < 2:
            raise ShapeError(
                "class labels need one output per class",
                given=f"output {tuple(output.shape)}",
                accepted="an output of shape (batch, classes)",
            )
        classes = output.shape[-1]
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
            raise InvalidDataError(
                "class labels have the wrong type",
                given=y.dtype,
                accepted="an integer dtype such as torch.int64; or class probabilities of the "
                "output's shape",
            )
        if y.numel() and (int(y.min()) < 0 or int(y.max()) >= classes):
            raise InvalidDataError(
                "class labels are out of range",
                given=f"{int(y.min())} .. {int(y.max())}",
                accepted=f"0 .. {classes - 1}, since the network has {classes} outputs",
            )


class Bernoulli(Likelihood):
    """Binary targets; the output holds logits of P(y = 1), of the targets' shape."""

    kind = "classification"

    def distribution(self, output: Tensor) -> TorchDistributionMixin:
        """See `Likelihood.distribution`."""
        return _with_events(dist.Bernoulli(logits=output, validate_args=False))

    def mean(self, output: Tensor) -> Tensor:
        """P(y = 1), shape of `output`."""
        return output.sigmoid()

    def prepare(self, y: Tensor, output: Tensor) -> Tensor:
        """See `Likelihood.prepare`: floats, [batch] made [batch, 1] for a single output."""
        return _squeeze_like(y, output)

    def _check_domain(self, y: Tensor, output: Tensor) -> None:
        if not bool(((y == 0) | (y == 1)).all()):
            raise InvalidDataError(
                "binary targets are out of range",
                given=f"{y.min().item()} .. {y.max().item()}",
                accepted="0 and 1",
            )


class Poisson(Likelihood):
    """Counts; the output is the logarithm of the rate, of the targets' shape."""

    kind = "counts"

    def distribution(self, output: Tensor) -> TorchDistributionMixin:
        """See `Likelihood.distribution`."""
        return _with_events(dist.Poisson(output.exp(), validate_args=False))

    def mean(self, output: Tensor) -> Tensor:
        """Expected count, shape of `output`."""
        return output.exp()

    def prepare(self, y: Tensor, output: Tensor) -> Tensor:
        """See `Likelihood.prepare`: floats, [batch] made [batch, 1] for a single output."""
        return _squeeze_like(y, output)

    def _check_domain(self, y: Tensor, output: Tensor) -> None:
        whole = y == y.round() if y.is_floating_point() else torch.ones_like(y, dtype=torch.bool)
        if not bool(((y >= 0) & whole).all()):
            least = y.min().item()
            raise InvalidDataError(
                "counts are out of range",
                given=f"minimum {least}" if least < 0 else y[~whole][0].item(),
                accepted="0, 1, 2, ...",
            )


class Gaussian(Likelihood):
    """Real targets with Gaussian noise.

    Args:
        scale: Standard deviation of the noise in units of the target, positive: fixed, or the start
            value where it is learned.
        learn: Learn one noise scale for all targets by gradient steps (default True).
        heteroscedastic: The net predicts the noise: the last dimension of its output is split in
            two halves, mean and log scale. `scale` and `learn` then have no effect.

    Raises:
        InvalidArgumentError: if `scale` is not a positive finite number.
    """

    kind = "regression"

    def __init__(
        self, scale: float = 1.0, *, learn: bool = True, heteroscedastic: bool = False
    ) -> None:
        super().__init__()
        if not is_real(scale) or not 0.0 < scale < float("inf"):
            raise InvalidArgumentError(
                "noise scale is out of range",
                given=scale,
                accepted="a positive finite standard deviation",
            )
        self.learn, self.heteroscedastic = learn, heteroscedastic
        log_scale = torch.tensor(log(scale))
        if learn and not heteroscedastic:
            self.log_scale: Tensor = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @property
    def scale(self) -> float:
        """Current noise scale, in units of the target (homoscedastic noise)."""
        return float(self.log_scale.detach().exp())

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        if not self.heteroscedastic:
            return output, self.log_scale
        if output.shape[-1] % 2:
            raise ShapeError(
                "heteroscedastic noise needs a mean and a log scale per target",
                given=f"{output.shape[-1]} outputs",
                accepted="an even number of outputs",
            )
        mean, log_scale = output.chunk(2, dim=-1)
        return mean, log_scale

    def distribution(self, output: Tensor) -> TorchDistributionMixin:
        """See `Likelihood.distribution`."""
        mean, log_scale = self._split(output)
        return _with_events(dist.Normal(mean, log_scale.exp(), validate_args=False))

    def mean(self, output: Tensor) -> Tensor:
        """Expected target: the output, or its first half with heteroscedastic noise."""
        return self._split(output)[0]

    def prepare(self, y: Tensor, output: Tensor) -> Tensor:
        """See `Likelihood.prepare`: floats, [batch] made [batch, 1] for a single output."""
        return _squeeze_like(y, self._split(output)[0])

    def _check_domain(self, y: Tensor, output: Tensor) -> None:
        self._split(output)
