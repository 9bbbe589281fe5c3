"""The No-U-Turn Sampler behind the interface of `ptv.fit`: the reference on small nets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil, isfinite
from typing import Any

import pyro
import torch
from pyro import infer, poutine
from pyro.infer.autoguide import init_to_value
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import Tensor

from pyro_turbovbi.batches import Batch
from pyro_turbovbi.engines._latents import require_inference, start_values, weights_from
from pyro_turbovbi.engines.protocol import Plan
from pyro_turbovbi.errors import InvalidArgumentError, NumericalError, UnsupportedError
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.posterior import SampledPosterior, Weights
from pyro_turbovbi.priors.base import Moments, WeightSite, fan_in
from pyro_turbovbi.priors.three_layer import collapsed_support_probs

#: Weights that a net may have, unless `NUTS(max_weights=)` says otherwise.
MAX_WEIGHTS = 2000
_FEWEST_DRAWS = 4  # of a chain, for split R-hat


@dataclass(frozen=True, eq=False)
class MCMCDiagnostics:
    """Whether the chains can be trusted.

    Attributes:
        r_hat: Split R-hat of every weight by site name, the weights' shapes; NaN with fewer than
            four draws a chain. Above 1.01 the chains have not mixed.
        ess: Effective sample size of every weight, likewise.
        divergences: Divergent transitions after the warm-up, of each chain. Any is a sign that part
            of the posterior was not reached.
        step_sizes: Step size of each chain after adaptation, in units of the mass matrix.
    """

    r_hat: Weights
    ess: Weights
    divergences: tuple[int, ...]
    step_sizes: tuple[float, ...]

    @property
    def max_r_hat(self) -> float:
        """Largest split R-hat of a weight."""
        return max(float(value.max()) for value in self.r_hat.values())

    @property
    def min_ess(self) -> float:
        """Smallest effective sample size of a weight."""
        return min(float(value.min()) for value in self.ess.values())


@dataclass(frozen=True, eq=False, kw_only=True)
class MCMCPosterior(SampledPosterior):
    """A posterior held as stored draws; `draw` picks one of them at random.

    Attributes:
        draws: All draws by site name, [chains, draws, *weight].
        diagnostics: R-hat, effective sample sizes, divergences.
    """

    draws: Weights
    diagnostics: MCMCDiagnostics

    @classmethod
    def of(
        cls,
        draws: Weights,
        moments: Mapping[str, Moments],
        diagnostics: MCMCDiagnostics,
        support: Weights | None,
    ) -> MCMCPosterior:
        """The posterior of stored draws.

        Args:
            draws: Draws by site name, [chains, draws, *weight].
            moments: Those of the priors' latent sites, see `Posterior.moments`.
            diagnostics: What the sampler reports.
            support: P(s = 1) by site name, where a site has a support layer.
        """
        flat = {name: values.flatten(0, 1) for name, values in draws.items()}
        count = len(next(iter(flat.values())))
        mean = {name: values.mean(0) for name, values in flat.items()}

        def pick() -> Weights:
            chosen = int(torch.randint(count, ()))
            return {name: values[chosen].clone() for name, values in flat.items()}

        return cls(
            sampler=pick,
            center=lambda: dict(mean),
            scales={name: values.std(0, correction=0) for name, values in flat.items()},
            support=support,
            latents=lambda: moments,
            draws=draws,
            diagnostics=diagnostics,
        )


@dataclass
class _Chain:
    """One Markov chain: Pyro's kernel, its present state and what it has drawn.

    States are values of the latent sites in unconstrained coordinates.
    """

    kernel: infer.NUTS
    state: Weights
    transitions: int = 0
    states: list[Weights] = field(default_factory=list)
    weights: list[Weights] = field(default_factory=list)


@dataclass
class NUTSState:
    """State of one run: the chains so far, of which the last one is at work."""

    bnn: BayesianNet
    plan: Plan
    chains: list[_Chain] = field(default_factory=list)
    transitions: int = 0
    steps_done: int = 0


@dataclass(frozen=True)
class NUTS:
    """Stock `pyro.infer.NUTS` on the whole data set: exact in the limit, for small nets.

    Every parameter of the net needs a continuous prior: ``priors.by_site({"*": ...})``, collapsed
    three-layer priors (``collapse=True``), a likelihood without learned parameters. The net runs in
    eval mode (a random or batch-dependent layer has no posterior to sample from).

    How much is sampled is a matter of these settings alone: `fit` spreads all transitions, one
    chain after the other and each with its warm-up, evenly over its epochs, which so only say how
    often progress is shown. The loss of an epoch is -ln p(D, w) at the last draw.

    Args:
        num_samples: Draws to keep, of each chain.
        warmup: Transitions in front of them that adapt step size and mass matrix, of each chain.
        num_chains: Chains, one after the other. The first starts at the net's own weights, every
            other at Normal(0, 1 / fan-in) weights.
        max_tree_depth: Doublings of a trajectory, at most 2^depth gradients a transition.
        target_accept: Acceptance probability that the step size is adapted to, in (0, 1).
        dense_mass: Adapt a dense mass matrix instead of a diagonal one.
        max_weights: Refuse nets with more weights.

    Raises:
        InvalidArgumentError: if a setting is out of range.

    Source: M. D. Hoffman, A. Gelman, JMLR 15:1593-1623, 2014.
    """

    num_samples: int = 1000
    warmup: int = 500
    num_chains: int = 1
    max_tree_depth: int = 10
    target_accept: float = 0.8
    dense_mass: bool = False
    max_weights: int = MAX_WEIGHTS

    def __post_init__(self) -> None:
        for name, lowest in (
            ("num_samples", 1), ("warmup", 0), ("num_chains", 1), ("max_tree_depth", 1),
            ("max_weights", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise _out_of_range(name, value, f"{lowest}, {lowest + 1}, ...")
        if not 0.0 < self.target_accept < 1.0:
            raise _out_of_range("target_accept", self.target_accept, "a number in (0, 1)")

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "nuts"

    @property
    def full_batch(self) -> bool:
        """True."""
        return True

    def init(self, bnn: BayesianNet, plan: Plan) -> NUTSState:
        """See `Engine.init`."""
        self._check(bnn)
        require_inference(bnn.sites, "mcmc", self.name)
        state = NUTSState(bnn, plan)
        self._start_chain(state)
        return state

    def step(self, state: NUTSState, batch: Batch) -> float:
        """Take this step's share of all transitions; see `Engine.step`.

        Returns:
            -ln p(D, w) in nats at the last draw.
        """
        state.steps_done += 1
        share = min(1.0, state.steps_done / state.plan.num_steps)
        self._sample(state, ceil(share * self._total))
        loss = self.evaluate(state, batch)
        if not isfinite(loss):
            raise NumericalError(
                "the log joint is not finite", given=loss, accepted="scaled inputs and weights"
            )
        return loss

    def evaluate(self, state: NUTSState, batch: Batch) -> float:
        """-ln p(D, w) in nats on a batch, at the present state of the chain."""
        with torch.no_grad(), _sampling(state.bnn):
            model = poutine.condition(state.bnn, data=_latents(state))
            return -float(poutine.trace(model).get_trace(*batch).log_prob_sum())

    def finish(self, state: NUTSState) -> None:
        """Take the transitions that are left."""
        self._sample(state, self._total)

    def posterior(self, state: NUTSState) -> MCMCPosterior:
        """The posterior of all draws so far; before the first one, of the chain's present state."""
        chains = _reported(state)
        draws = _stacked([chain.weights or [_weights(state)] for chain in chains])
        latents = _stacked([chain.states or [chain.state] for chain in chains])
        moments = {
            name: Moments(values.mean((0, 1)), values.std((0, 1), correction=0))
            for name, values in latents.items()
        }
        return MCMCPosterior.of(
            draws,
            moments,
            _diagnose(state, draws),
            collapsed_support_probs(state.bnn.sites, [draws]),
        )

    def elbo_kind(self, state: NUTSState) -> str:
        """See `Engine.elbo_kind`: "log joint"."""
        return "log joint"

    @property
    def _per_chain(self) -> int:
        return self.warmup + self.num_samples

    @property
    def _total(self) -> int:
        return self.num_chains * self._per_chain

    def _check(self, bnn: BayesianNet) -> None:
        discrete = [name for name, site in bnn.sites.items() if site.prior.discrete]
        if discrete:
            raise UnsupportedError(
                "NUTS cannot handle the discrete supports of its priors",
                given=f"weights {', '.join(discrete)}",
                accepted="priors.ThreeLayer(..., collapse=True), another prior by "
                "bnn.with_prior(priors.Normal()), or engines.Turbo()",
            )
        if bnn.points:
            raise UnsupportedError(
                "NUTS samples and cannot train parameters without a prior",
                given=", ".join(bnn.points),
                accepted='a prior for every parameter, priors.by_site({"*": priors.Normal()}), a '
                "likelihood without learned noise, or engines.Turbo(), engines.SVI()",
            )
        count = sum(site.shape.numel() for site in bnn.sites.values())
        if count > self.max_weights:
            raise UnsupportedError(
                "NUTS is for small nets: its cost a draw grows faster than the number of weights",
                given=f"{count} weights",
                accepted=f"at most {self.max_weights}, engines.NUTS(max_weights={count}), or "
                "engines.Turbo(), engines.SVI()",
            )

    def _start_chain(self, state: NUTSState) -> None:
        sites = state.bnn.sites
        if state.chains:
            sites = {name: replace(site, init=_far_start(site)) for name, site in sites.items()}
        kernel = infer.NUTS(
            state.bnn,
            full_mass=self.dense_mass,
            max_tree_depth=self.max_tree_depth,
            target_accept_prob=self.target_accept,
            init_strategy=init_to_value(values=start_values(sites)),
        )
        with _sampling(state.bnn):
            kernel.setup(self.warmup, *state.plan.example)
        state.chains.append(_Chain(kernel, kernel.initial_params))

    def _sample(self, state: NUTSState, until: int) -> None:
        while state.transitions < until:
            if state.chains[-1].transitions == self._per_chain:
                self._start_chain(state)
            chain = state.chains[-1]
            with _sampling(state.bnn):
                chain.state = chain.kernel.sample(chain.state)
            chain.transitions += 1
            state.transitions += 1
            if chain.transitions > self.warmup:
                chain.states.append({name: z.detach().clone() for name, z in chain.state.items()})
                chain.weights.append(_weights(state))


@contextmanager
def _sampling(bnn: BayesianNet) -> Iterator[None]:
    """Context in which the log joint is a function of the weights alone, and may be NaN.

    Trajectories that diverge leave the domain of distributions; the sampler rejects them.
    """
    training = bnn.training
    bnn.eval()
    try:
        with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
            yield
    finally:
        bnn.train(training)


def _far_start(site: WeightSite) -> Tensor:
    """Start of a further chain: it is to find the posterior from elsewhere."""
    assert site.init is not None
    start: Tensor = torch.randn_like(site.init) * fan_in(site.shape) ** -0.5
    return start


def _latents(state: NUTSState) -> Weights:
    """Values of the latent sites at the present state of the chain."""
    chain = state.chains[-1]
    return {name: chain.kernel.transforms[name].inv(z) for name, z in chain.state.items()}


def _weights(state: NUTSState) -> Weights:
    weights = weights_from(state.bnn.sites, _latents(state))
    return {name: weight.clone() for name, weight in weights.items()}


def _reported(state: NUTSState) -> list[_Chain]:
    """The chains that are as long as the first."""
    return [c for c in state.chains if len(c.weights) == len(state.chains[0].weights)]


def _stacked(chains: list[list[Weights]]) -> Weights:
    """Values by name, [chains, draws, *shape]."""
    return {
        name: torch.stack([torch.stack([draw[name] for draw in draws]) for draws in chains])
        for name in chains[0][0]
    }


def _diagnose(state: NUTSState, draws: Weights) -> MCMCDiagnostics:
    count = next(iter(draws.values())).shape[1]
    enough = count >= _FEWEST_DRAWS

    def per_weight(statistic: Any) -> Weights:
        return {
            name: statistic(values.double()).to(values.dtype)
            if enough
            else torch.full_like(values[0, 0], torch.nan)
            for name, values in draws.items()
        }

    return MCMCDiagnostics(
        r_hat=per_weight(split_gelman_rubin),
        ess=per_weight(effective_sample_size),
        divergences=tuple(len(chain.kernel._divergences) for chain in state.chains),
        step_sizes=tuple(float(chain.kernel.step_size) for chain in state.chains),
    )


def _out_of_range(name: str, given: object, accepted: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"NUTS setting {name!r} is out of range", given=given, accepted=accepted
    )


__all__ = ["MAX_WEIGHTS", "NUTS", "MCMCDiagnostics", "MCMCPosterior", "NUTSState"]
