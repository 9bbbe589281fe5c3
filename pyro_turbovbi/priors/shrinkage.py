"""Sparse priors of single weights: horseshoe, spike and slab, log-uniform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_turbovbi.distributions.shrinkage import HalfCauchy, LogUniformNormal, NormalMixture
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.priors._checks import a_number, is_real, ordered, positive
from pyro_turbovbi.priors.base import Moments, NonCentred, Prior, emit_each, fan_in

#: Points of equal probability that stand for a posterior over which something is averaged.
QUANTILES = 64


@dataclass(frozen=True)
class Horseshoe(NonCentred):
    """Regularised horseshoe: a scale per weight, a scale for all, and a soft upper limit.

        w_n = eta~_n r_n,   eta~_n^2 = c^2 eta_n^2 / (c^2 + eta_n^2)
        r_n ~ Normal(0, 1)                                                  ``{name}_raw``
        eta_n ~ HalfCauchy(tau)                                             ``{name}_local``
        tau ~ HalfCauchy(global_scale)                                      ``{name}_global``
        c^2 ~ InverseGamma(slab_df / 2, slab_df slab_scale^2 / 2)           ``{name}_slab``

    r and eta = tau lambda have the weight's shape, tau and c^2 are scalars.

    Of the equivalent forms this is the one under which factorised posteriors work. The weight is
    non-centred (see `NonCentred`). The global scale is not: a factor tau in every weight could not
    move unless the scales of all large weights moved against it in the same step. The half-Cauchy
    laws need no auxiliary inverse-gamma variables, since autoguides work on ln eta, whose density
    sech(ln eta - ln tau) / pi is symmetric and light-tailed, so that a normal fits it well.

    Pruning: a weight stays where 1 - kappa > 1/2. The shrinkage factor kappa, the share of a
    weight's precision that comes from the prior, is 1 / (1 + d E[eta^2]) with the likelihood's
    precision d of the weight. That is the posterior variance of r_n, whose prior variance is 1:
    exactly so for a factorised normal posterior and a likelihood that is quadratic in the weight.
    A MAP estimate has no variances: every weight stays.

    Args:
        global_scale: Scale of tau, positive. Default 0.01; with p_0 weights of D expected to be
            relevant and n data points, the authors suggest p_0 / (D - p_0) * noise / sqrt(n).
        slab_scale: Typical size of a large weight, positive.
        slab_df: Degrees of freedom of the law of large weights, positive.

    Raises:
        InvalidArgumentError: if a number is not positive and finite.

    Source: J. Piironen, A. Vehtari, "Sparsity information and regularization in the horseshoe and
    other shrinkage priors", Electron. J. Statist. 11(2):5018-5051, 2017. Pruning: C. M. Carvalho,
    N. G. Polson, J. G. Scott, "The horseshoe estimator for sparse signals", Biometrika
    97(2):465-480, 2010.
    """

    global_scale: float = 0.01
    slab_scale: float = 1.0
    slab_df: float = 4.0

    def __post_init__(self) -> None:
        positive(self, "global_scale", "slab_scale", "slab_df")

    def pieces(self, name: str, shape: torch.Size, like: Tensor) -> dict[str, Tensor]:
        """See `NonCentred.pieces`."""
        one, dims = like.new_ones(()), len(shape)
        half_df = 0.5 * self.slab_df
        scalars = {
            f"{name}_global": dist.HalfCauchy(self.global_scale * one),
            f"{name}_slab": dist.InverseGamma(half_df * one, half_df * self.slab_scale**2 * one),
        }
        values = emit_each(scalars)
        vectors = {
            f"{name}_local": HalfCauchy(values[f"{name}_global"].expand(shape)).to_event(dims),
            f"{name}_raw": dist.Normal(like.new_zeros(shape), 1.0).to_event(dims),
        }
        return values | emit_each(vectors)

    def weight(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """See `Prior.weight`."""
        scale = values[f"{name}_local"]
        limited = scale * (1.0 + scale.square() / values[f"{name}_slab"]).rsqrt()
        return limited * values[f"{name}_raw"]

    def start(self, name: str, init: Tensor) -> dict[str, Tensor]:
        """See `Prior.start`: all scales at the size of the start weights."""
        size, slab = root_mean_square(init), self.slab_scale**2
        limited = size * (1.0 + size.square() / slab).rsqrt()
        return {
            f"{name}_global": size,
            f"{name}_slab": torch.full_like(size, slab),
            f"{name}_local": size.expand(init.shape).clone(),
            f"{name}_raw": init / limited,
        }

    def survivors(self, name: str, moments: Mapping[str, Moments]) -> Tensor | None:
        """See `Prior.survivors`: 1 - kappa > 1/2."""
        scale = moments[f"{name}_raw"].scale
        return 1.0 - scale.square() > 0.5 if bool((scale > 0).all()) else None


@dataclass(frozen=True)
class SpikeSlab(Prior):
    """Independent spike and slab, two normals of which each weight has one.

        w_n ~ density Normal(0, slab^2) + (1 - density) Normal(0, spike^2)

    The choice between the two is summed out, so that every engine for continuous priors works.

    Pruning: a weight stays where P(slab | data) > 1/2, the mean of P(slab | w) over the posterior
    of w (the median probability model).

    Args:
        density: Probability of the slab, in (0, 1).
        slab: Standard deviation of the slab.
        spike: Standard deviation of the spike, smaller than that of the slab. Choose it at the size
            below which a weight may be deleted; a posterior that is much wider than the spike does
            not feel its pull, and then every weight stays.

    Raises:
        InvalidArgumentError: if a number is out of range.

    Source: E. I. George, R. E. McCulloch, "Variable selection via Gibbs sampling", JASA
    88(423):881-889, 1993; for neural nets C. Blundell and others, "Weight uncertainty in neural
    networks", ICML 2015. Pruning: M. M. Barbieri,
    J. O. Berger, "Optimal predictive model selection", Ann. Statist. 32(3):870-897, 2004.
    """

    density: float = 0.25
    slab: float = 1.0
    spike: float = 0.02

    def __post_init__(self) -> None:
        if not is_real(self.density) or not 0.0 < self.density < 1.0:
            raise InvalidArgumentError(
                "density of a SpikeSlab prior is out of range",
                given=self.density,
                accepted="a probability in (0, 1)",
            )
        positive(self, "slab", "spike")
        ordered(self, "spike", "slab")

    def emit(self, name: str, shape: torch.Size, like: Tensor) -> Tensor:
        """Emit the single site ``{name}``. See `Prior.emit`."""
        law: dist.TorchDistribution = self._law(shape, like)
        return pyro.sample(name, law.to_event(len(shape)))

    def slab_probs(self, weight: Moments) -> Tensor:
        """P(slab) of every weight, averaged over Normal(mean, scale^2); the weight's shape."""
        law = self._law(weight.mean.shape, weight.mean)
        return normal_average(lambda w: law.log_odds(w).sigmoid(), *weight)

    def survivors(self, name: str, moments: Mapping[str, Moments]) -> Tensor:
        """See `Prior.survivors`: P(slab | data) > 1/2."""
        return self.slab_probs(moments[name]) > 0.5

    def _law(self, shape: torch.Size, like: Tensor) -> NormalMixture:
        return NormalMixture(shape, self.density, self.slab, self.spike, like)


@dataclass(frozen=True)
class LogUniform(Prior):
    """Log-uniform weights, p(ln |w|) constant: the prior of sparse variational dropout.

    The improper law of the authors has no proper posterior and no draws. Here it is bounded:
    ln s ~ Uniform(ln low, ln high), w | s ~ Normal(0, s^2), with s integrated out. Between the
    bounds that is const / |w|, as theirs (see `LogUniformNormal`); it is proper, can be drawn from,
    and its gradient is bounded, so that the KL term can be estimated by sampling. The bounds
    replace the authors' closed approximation of that term.

    Pruning: a weight stays where its log dropout rate ln(scale^2 / mean^2) is below `threshold`; a
    MAP estimate has no such rate: every weight stays.

    Args:
        low: Smallest scale; weights far below it count as zero to the prior.
        high: Largest scale.
        threshold: Log dropout rate from which on a weight is pruned; the authors' value is 3, a
            dropout rate of 0.95.

    Raises:
        InvalidArgumentError: if a bound is not positive and finite, or they are in the wrong order.

    Source: D. P. Kingma, T. Salimans, M. Welling, "Variational dropout and the local
    reparameterization trick", NeurIPS 2015; D. Molchanov, A. Ashukha, D. Vetrov, "Variational
    dropout sparsifies deep neural networks", ICML 2017. On the improper law: J. Hron, A. Matthews,
    Z. Ghahramani, "Variational Bayesian dropout: pitfalls and fixes", ICML 2018.
    """

    low: float = 1e-3
    high: float = 10.0
    threshold: float = 3.0

    def __post_init__(self) -> None:
        positive(self, "low", "high")
        a_number(self, "threshold")
        ordered(self, "low", "high")

    def emit(self, name: str, shape: torch.Size, like: Tensor) -> Tensor:
        """Emit the single site ``{name}``. See `Prior.emit`."""
        law: dist.TorchDistribution = LogUniformNormal(shape, self.low, self.high, like)
        return pyro.sample(name, law.to_event(len(shape)))

    def survivors(self, name: str, moments: Mapping[str, Moments]) -> Tensor | None:
        """See `Prior.survivors`: log dropout rate below the threshold."""
        mean, scale = moments[name]
        return log_dropout(mean, scale) < self.threshold if bool((scale > 0).all()) else None


def normal_average(function: Callable[[Tensor], Tensor], mean: Tensor, scale: Tensor) -> Tensor:
    """Mean of a monotone or smooth function under Normal(mean, scale^2), element by element.

    By points of equal probability, so that an error is at most 1 / `QUANTILES` of a step's height.
    """
    quantiles = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    total = torch.zeros_like(mean)
    for z in torch.special.ndtri(quantiles).tolist():
        total += function(mean + z * scale)
    return total / QUANTILES


def log_dropout(mean: Tensor, scale: Tensor) -> Tensor:
    """Log dropout rate ln(scale^2 / mean^2), the inputs' shape; infinite where the mean is zero."""
    return 2.0 * (scale.log() - mean.abs().log())


def root_mean_square(init: Tensor, dims: list[int] | None = None) -> Tensor:
    """Size of start weights over some dimensions (which stay as ones; None: a scalar of all).

    Weights that are all zero count as 1 / sqrt(fan-in): a scale must be positive.
    """
    if dims is None:
        size = init.square().mean().sqrt()
    else:
        size = init.square().mean(dims, keepdim=True).sqrt() if dims else init.abs()
    return torch.where(size > 0, size, fan_in(init.shape) ** -0.5)


__all__ = [
    "QUANTILES",
    "Horseshoe",
    "LogUniform",
    "SpikeSlab",
    "log_dropout",
    "normal_average",
    "root_mean_square",
]
