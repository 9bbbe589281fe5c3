"""Exact q(w) for linear nets under Gaussian noise: Turbo-VBI by exact coordinate steps.

For y = X w + noise, noise ~ Normal(0, s^2), and E[rho] given, the optimal q(w) is
Normal(mu, Sigma) with

    Sigma = (diag(E[rho]) + X'X / s^2)^-1 = V - V X' C^-1 X V
    mu    = V X' C^-1 y
    V     = diag(1 / E[rho])
    C     = s^2 I + X V X'

so only a matrix of the size of the observations is inverted (Woodbury). Each output unit has its
own E[rho], the same X.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log, pi

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pyro_turbovbi.engines.turbo.settings import TurboSettings
from pyro_turbovbi.engines.turbo.site import SpikeSlab, learned_hyperparameters, make_site
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families.factors import INIT_SCALE, make_factor
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.likelihoods import Gaussian
from pyro_turbovbi.posterior import SampledPosterior, Weights
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.priors.hyperparameters import Hyperparameters


@dataclass(frozen=True, eq=False)
class GaussianPosterior:
    """q(w) = Normal(mu, Sigma) of every output unit, Sigma held implicitly.

    Attributes:
        precision: E[rho], [outputs, inputs].
        design: X, [observations, inputs].
        noise: s, noise standard deviation in units of the target.
        mean: mu, [outputs, inputs].
        variance: diagonal of Sigma, [outputs, inputs].
        log_det: ln det Sigma, summed over outputs; scalar.
        factor: Lower Cholesky factor of C, [outputs, observations, observations].
    """

    precision: Tensor
    design: Tensor
    noise: float
    mean: Tensor
    variance: Tensor
    log_det: Tensor
    factor: Tensor

    @classmethod
    def fit(
        cls,
        design: Float[Tensor, "observations inputs"],
        targets: Float[Tensor, "observations outputs"],
        precision: Float[Tensor, "outputs inputs"],
        noise: float,
    ) -> GaussianPosterior:
        """The optimal q(w) given E[rho] and the noise."""
        scaled = design / precision[:, None, :]  # X V, [outputs, observations, inputs]
        count = len(design)
        gram = scaled @ design.T + noise**2 * torch.eye(
            count, dtype=design.dtype, device=design.device
        )
        factor = torch.linalg.cholesky(gram)
        solved = torch.cholesky_solve(scaled, factor)
        mean = torch.einsum("kmn,mk->kn", solved, targets)
        variance = 1.0 / precision - (scaled * solved).sum(1)
        log_det_gram = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum()
        log_det = 2.0 * len(factor) * count * log(noise) - log_det_gram - precision.log().sum()
        return cls(precision, design, noise, mean, variance, log_det, factor)

    @property
    def output_variance(self) -> Tensor:
        """Posterior variance of X w per observation, diag(X Sigma X'), [outputs, observations]."""
        # X Sigma X' = K - K C^-1 K = s^2 (I - s^2 C^-1) with K = X V X' = C - s^2 I
        inverse = torch.cholesky_inverse(self.factor).diagonal(dim1=1, dim2=2)
        return self.noise**2 * (1.0 - self.noise**2 * inverse)

    @property
    def entropy(self) -> Tensor:
        """H(q(w)) in nats; scalar."""
        return 0.5 * (self.log_det + self.mean.numel() * (1.0 + log(2 * pi)))

    def draw(self) -> Tensor:
        """One exact draw, [outputs, inputs]: a prior draw, corrected by what the data say of it.

        Source: A. Bhattacharya, A. Chakraborty, B. K. Mallick, Biometrika 103:985-991, 2016.
        """
        prior = torch.randn_like(self.mean) / self.precision.sqrt()
        observed = prior @ self.design.T + self.noise * torch.randn(
            len(prior), len(self.design), dtype=prior.dtype, device=prior.device
        )
        weights = torch.cholesky_solve(observed.unsqueeze(-1), self.factor).squeeze(-1)
        return self.mean + prior - (weights @ self.design) / self.precision


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearGaussianPosterior(SampledPosterior):
    """The exact posterior of a linear net's weight, drawn from jointly.

    Attributes:
        gaussian: q(w), in double precision.
        name: Name of the weight.
        dtype: Of the net, and of all draws.
    """

    gaussian: GaussianPosterior
    name: str
    dtype: torch.dtype

    @classmethod
    def of(
        cls,
        gaussian: GaussianPosterior,
        name: str,
        dtype: torch.dtype,
        support: Weights | None,
        hyperparameters: Mapping[str, Hyperparameters],
    ) -> LinearGaussianPosterior:
        """The posterior in the net's dtype.

        Args:
            gaussian: q(w).
            name: Name of the weight.
            dtype: Of the net.
            support: P(s = 1) by site name, where the site has a support layer.
            hyperparameters: Learned hyper-parameters by site name.
        """
        return cls(
            sampler=lambda: {name: gaussian.draw().to(dtype)},
            center=lambda: {name: gaussian.mean.to(dtype)},
            scales={name: gaussian.variance.sqrt().to(dtype)},
            support=support,
            hyperparameters=hyperparameters,
            gaussian=gaussian,
            name=name,
            dtype=dtype,
        )


class LinearGaussianState:
    """Turbo-VBI on a linear net, by exact coordinate steps on the full data.

    One step: q(w) given E[rho]; noise and bias given q(w); then a full exchange of Module A and
    Module B. With a tree-shaped support prior, no damping and no annealing, no step lowers the
    ELBO.

    Args:
        bnn: A lifted `nn.Linear` (or a Sequential of just that) under `likelihoods.Gaussian()`.
        settings: Engine settings.
        num_steps: Steps that the annealing spans.

    Raises:
        UnsupportedError: if the model is not linear-Gaussian.
    """

    def __init__(self, bnn: BayesianNet, settings: TurboSettings, num_steps: int) -> None:
        self.bnn, self.settings, self.num_steps = bnn, settings, num_steps
        self.linear, self.likelihood, site = _linear_gaussian(bnn)
        self._site_name = site.name
        self.factor = make_factor(site, settings.init_scale or INIT_SCALE).double()
        if site.gates is not None:
            raise UnsupportedError(
                "exact weights do not take shared unit gates",
                given=site.prior,
                accepted='weights="diagonal", or supports.Gated(gate_dim=1) without gates="shared"',
            )
        self.site = make_site(site, self.factor, settings)
        self.steps_done = 0
        self.posterior: GaussianPosterior | None = None
        self._start()

    def _start(self) -> None:
        if isinstance(self.site, SpikeSlab):
            components = self.site.components
            a, b = components.active if self.settings.start == "active" else components.inactive
            start = a / b
        else:
            start = float(self.site.precision)
        self._precision = torch.full_like(self.factor.loc, start).detach()

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> float:
        """One round of exact coordinate updates; returns the loss -ELBO after it, in nats.

        Args:
            x: All inputs, [observations, inputs].
            y: All targets, [observations, outputs] or [observations].
        """
        design, targets = x.double(), self.likelihood.prepare(y, self.linear(x[:1])).double()
        centred = targets - self._bias()
        posterior = GaussianPosterior.fit(design, centred, self._precision, self.likelihood.scale)
        self.posterior = posterior
        self.factor.loc.copy_(posterior.mean)
        self.factor.log_scale.copy_(0.5 * posterior.variance.log())
        self._update_points(targets)
        self.site.anneal(min(1.0, (self.steps_done + 1) / self.num_steps))
        self.site.exchange(self.factor.second_moment())
        self._precision = self.site.precision.expand_as(posterior.mean).contiguous()
        self.steps_done += 1
        return self.loss(x, y)

    @torch.no_grad()
    def loss(self, x: Tensor, y: Tensor) -> float:
        """-ELBO in nats at the present state, exact."""
        assert self.posterior is not None, "the loss exists after the first step"
        targets = self.likelihood.prepare(y, self.linear(x[:1])).double()
        noise = self.likelihood.scale
        misfit = self._squared_error(x.double(), targets) / (2.0 * noise**2)
        expected_log_lik = -misfit - 0.5 * targets.numel() * log(2 * pi * noise**2)
        prior = self.site.prior_bound(self.factor.second_moment())
        return -float(expected_log_lik + self.posterior.entropy + prior)

    def result(self) -> LinearGaussianPosterior:
        """The posterior in the net's dtype."""
        name, dtype, posterior = self._site_name, self.linear.weight.dtype, self.posterior
        assert posterior is not None, "the posterior exists after the first step"
        probs = getattr(self.site, "probs", None)
        support = None if probs is None else {name: probs.to(dtype)}
        learned = learned_hyperparameters([self.site], self.settings)
        return LinearGaussianPosterior.of(posterior, name, dtype, support, learned)

    def _bias(self) -> Tensor:
        bias = self.linear.bias
        return self.factor.loc.new_zeros(()) if bias is None else bias.double()

    def _squared_error(self, design: Tensor, targets: Tensor) -> Tensor:
        """E_q |y - X w - bias|^2, summed."""
        assert self.posterior is not None
        residual = targets - design @ self.posterior.mean.T - self._bias()
        return residual.square().sum() + self.posterior.output_variance.sum()

    def _update_points(self, targets: Tensor) -> None:
        """Bias and noise at their optimum given q(w), where they are learned."""
        assert self.posterior is not None
        design = self.posterior.design
        if self.linear.bias is not None and self.linear.bias.requires_grad:
            self.linear.bias.copy_((targets - design @ self.posterior.mean.T).mean(0))
        if isinstance(self.likelihood.log_scale, nn.Parameter):
            variance = self._squared_error(design, targets) / targets.numel()
            self.likelihood.log_scale.copy_(0.5 * variance.log())


def _linear_gaussian(bnn: BayesianNet) -> tuple[nn.Linear, Gaussian, WeightSite]:
    layers = [m for m in bnn.net.modules() if not isinstance(m, nn.Sequential)]
    likelihood, sites = bnn.likelihood, bnn.sites
    linear = len(layers) == 1 and isinstance(layers[0], nn.Linear)
    gaussian = isinstance(likelihood, Gaussian) and not likelihood.heteroscedastic
    if not (linear and gaussian and len(sites) == 1 and next(iter(sites)).endswith("weight")):
        raise UnsupportedError(
            "exact weights need a linear-Gaussian model",
            given=f"{type(bnn.net).__name__} under {type(likelihood).__name__}, {len(sites)} sites",
            accepted="one nn.Linear under likelihoods.Gaussian() with a prior on its weight, "
            'or weights="diagonal"',
        )
    return layers[0], likelihood, next(iter(sites.values()))  # type: ignore[return-value]
