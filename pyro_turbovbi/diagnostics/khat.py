"""How close a variational posterior is to the exact one: Pareto k of its importance ratios.

With draws w_s ~ q(w) the ratios

    r_s = p(D, w_s) / q(w_s)

would all be equal if q were the posterior. The shape k of their tail measures the distance, on a
scale that has a meaning: below the threshold (0.7 for many draws) reweighting can turn q into the
posterior, above it q is too far away for that. The supports and precisions of a three-layer prior
are summed and integrated out,

    ln p(w) = ln sum_s p(s) prod_n t(w_n | s_n)

with t(. | s_n = i) Student's law of 2 a_i degrees of freedom and scale sqrt(b_i / a_i): exact where
the support prior is a tree. Parameters that are trained as points (biases, noise) keep their
values: the posterior in question is that of the weights given them.

The ratios of a net with thousands of weights span thousands of nats, and k is then far above 1: as
a statement on the joint posterior of all weights that is true, and says little about predictions.

Source: Y. Yao, A. Vehtari, D. Simpson, A. Gelman, "Yes, but did it work?: Evaluating variational
inference", ICML 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from pyro_turbovbi._random import seeded
from pyro_turbovbi.batches import Data
from pyro_turbovbi.diagnostics._draws import (
    NUM_DRAWS,
    data_on_device,
    predict_with,
    require_draws,
)
from pyro_turbovbi.diagnostics.protocols import PosteriorFit
from pyro_turbovbi.diagnostics.psis import k_threshold, pareto_smooth
from pyro_turbovbi.distributions import CollapsedThreeLayer
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.posterior import DiagonalPosterior
from pyro_turbovbi.priors.base import Prior
from pyro_turbovbi.priors.three_layer import ThreeLayer


@dataclass(frozen=True, eq=False)
class KHat:
    """Importance ratios of the exact posterior against q(w), and the shape of their tail.

    Attributes:
        k: Estimated Pareto shape; see `verdict`.
        log_ratios: ln p(D, w_s) - ln q(w_s) of every draw in nats, `[draws]`, double precision.
        log_evidence: ln p(D) by importance sampling with smoothed ratios, in nats; to be believed
            only where `reliable`.
    """

    k: float
    log_ratios: Tensor
    log_evidence: float

    @property
    def elbo(self) -> float:
        """Mean of the log-ratios: the ELBO of q(w), supports and precisions summed out; nats."""
        return float(self.log_ratios.mean())

    @property
    def threshold(self) -> float:
        """Largest k that the number of draws allows."""
        return k_threshold(len(self.log_ratios))

    @property
    def reliable(self) -> bool:
        """Whether k is at most the threshold."""
        return self.k <= self.threshold

    @property
    def verdict(self) -> str:
        """What k says of q, in words."""
        if self.k <= min(0.5, self.threshold):
            return "q(w) is close to the posterior"
        if self.reliable:
            return "q(w) is usable: reweighting its draws corrects it"
        return "q(w) is too far from the posterior to be corrected by reweighting its draws"

    def __str__(self) -> str:
        return f"k-hat {self.k:.2f} ({len(self.log_ratios):,} draws): {self.verdict}"


@torch.no_grad()
def variational_khat(
    fit: PosteriorFit, data: Data, *, num_draws: int = NUM_DRAWS, seed: int = 0
) -> KHat:
    """Pareto k of a fit against the exact posterior of its weights.

    The prior is the one that the net declares. A fit by `Turbo(learn_hyper=True)` is thus held
    against the model before learning; one with a `kl_weight` other than 1 was trained for another
    target, and k shows that too.

    Args:
        fit: A fitted net whose q(w) is a diagonal normal: `engines.Turbo()` with
            diagonal weights, or `engines.SVI("auto_normal")`.
        data: All of the training data: `DataLoader`, `Dataset` or pair of tensors.
        num_draws: Posterior draws.
        seed: Seed of the draws; the global random state is left as it was.

    Returns:
        k and the log-ratios.

    Raises:
        InvalidArgumentError: if there are fewer than 25 draws.
        NumericalError: if a log-ratio is not finite.
        UnsupportedError: if q(w) has no density that is known, or a prior no tractable marginal.
    """
    posterior = _diagonal(fit)
    x, y = data_on_device(fit, data)
    ratios = []
    with seeded(seed):
        require_draws(fit, "k-hat")
        for _ in range(num_draws):
            weights = posterior.draw()
            log_lik = predict_with(fit, weights, x).log_likelihood(y).double().sum()
            ratios.append(log_lik + _log_prior(fit, weights) - _log_q(posterior, weights))
    log_ratios = torch.stack(ratios)
    smoothed = pareto_smooth(log_ratios)
    evidence = float(smoothed.log_ratios.logsumexp(0)) - log(num_draws)
    return KHat(float(smoothed.k), log_ratios, evidence)


@torch.no_grad()
def marginal_log_prior(name: str, prior: Prior, weight: Float[Tensor, "*shape"]) -> Tensor:
    """Log-density of a weight with all other sites of its prior summed out.

    Args:
        name: Name of the weight's site.
        prior: The prior.
        weight: A value of the weight.

    Returns:
        A scalar in nats, in double precision.

    Raises:
        UnsupportedError: if the prior has further latent sites that cannot be summed out exactly,
            as under a grid.
    """
    value = weight.detach().double()
    if isinstance(prior, ThreeLayer) and prior.gates:
        raise UnsupportedError(
            f"the prior of weight {name!r} shares gates with other weights, and they cannot be "
            "summed out",
            given=prior,
            accepted="priors.ThreeLayer without shared gates, with a support that is a tree",
        )
    if isinstance(prior, ThreeLayer):
        support = prior.support_distribution(value.shape)
        return CollapsedThreeLayer(support, *prior.components(value.shape)).log_prob(value)
    conditioned = poutine.condition(prior.sample, data={name: value})
    with pyro.settings.context(module_local_params=True):
        trace = poutine.trace(conditioned).get_trace(name, value.shape, init=value)
    others = [site for site in trace.stochastic_nodes if site != name]
    if others:
        raise UnsupportedError(
            f"the prior of weight {name!r} has latent variables that cannot be summed out",
            given=f"{prior!r} with {', '.join(others)}",
            accepted="priors with one site, or priors.ThreeLayer with a support that is a tree",
        )
    return torch.as_tensor(trace.log_prob_sum())


def _diagonal(fit: PosteriorFit) -> DiagonalPosterior:
    posterior = fit.posterior
    if isinstance(posterior, DiagonalPosterior) and all(
        bool((scale > 0.0).all()) for scale in posterior.scales.values()
    ):
        return posterior
    raise UnsupportedError(
        "k-hat needs a q(w) whose density is known",
        given=f"engine {fit.engine_name}, {type(posterior).__name__}",
        accepted='engines.Turbo() with diagonal weights, or engines.SVI(guide="auto_normal")',
    )


def _log_prior(fit: PosteriorFit, weights: Mapping[str, Tensor]) -> Tensor:
    terms = [
        marginal_log_prior(name, site.prior, weights[name]) for name, site in fit.bnn.sites.items()
    ]
    return torch.stack(terms).sum()


def _log_q(posterior: DiagonalPosterior, weights: Mapping[str, Tensor]) -> Tensor:
    terms = [
        torch.distributions.Normal(mean.double(), posterior.scales[name].double())
        .log_prob(weights[name].double())
        .sum()
        for name, mean in posterior.loc.items()
    ]
    return torch.stack(terms).sum()
