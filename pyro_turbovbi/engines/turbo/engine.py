"""`engines.Turbo`: Turbo-VBI as an engine of `ptv.fit`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pyro_turbovbi.batches import Batch
from pyro_turbovbi.distributions import BlockSupport, MarkovGridSupport, SupportDistribution
from pyro_turbovbi.engines.protocol import Plan
from pyro_turbovbi.engines.turbo.lean import LeanTurboVBI
from pyro_turbovbi.engines.turbo.linear_gaussian import LinearGaussianState
from pyro_turbovbi.engines.turbo.restructuring import RestructuringTurbo
from pyro_turbovbi.engines.turbo.settings import TurboSettings
from pyro_turbovbi.engines.turbo.site import SpikeSlab, ThreeLayerSite, learned_hyperparameters
from pyro_turbovbi.engines.turbo.vbi import TurboVBI
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.posterior import DiagonalPosterior, Posterior

TurboState = TurboVBI | RestructuringTurbo | LinearGaussianState


@dataclass(frozen=True)
class Turbo(TurboSettings):
    """Turbo-VBI: variational Bayes and message passing that exchange extrinsic information.

    Handles weights under `priors.ThreeLayer` and `priors.Normal`. Settings: see `TurboSettings`.

    Args:
        compact_every: Epochs between two compactions, at which units that nothing reads any more
            leave the computation, so that epochs get cheaper as the net gets smaller; None
            (default): never. It waits until the inactive weights can be cut without harm.
        reorder_every: Epochs after which hidden units are put in an order in which those with
            similar weights are neighbours, so that chains along them couple like with like; None
            (default): never. The net that comes out has its hidden units in another order.
        lean: Keep eight floats a weight, and what model reduction has decided, in the place of
            about twice as many (docs: "Memory"); steps do more arithmetic. The results are those
            of ``refresh_every=1``, to rounding. `fit` then keeps no copy of the training to go back
            to where a loss is not finite, but raises at once.

    Raises:
        InvalidArgumentError: if a setting is out of range.

    Source: C. Xia, D. H. K. Tsang, V. K. N. Lau, IEEE Trans. Signal Process. 71:670-685, 2023; the
    structured factorisation, the annealing and the exact linear-Gaussian form are this package's
    own (docs: "Theory").
    """

    compact_every: int | None = None
    reorder_every: int | None = None
    lean: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("compact_every", "reorder_every"):
            every = getattr(self, name)
            if every is not None and every < 1:
                raise InvalidArgumentError(
                    f"Turbo setting {name!r} is out of range",
                    given=every,
                    accepted="1, 2, ..., or None",
                )
        if self.lean:
            self._check_lean()

    def _check_lean(self) -> None:
        if self.factorisation != "structured" or self.weights != "diagonal":
            raise InvalidArgumentError(
                "lean needs an E[rho] that follows from q(w), and a diagonal q(w)",
                given=f"factorisation={self.factorisation!r}, weights={self.weights!r}",
                accepted='factorisation="structured" and weights="diagonal", or lean=False',
            )
        if self.compact_every is not None:
            raise InvalidArgumentError(
                "compaction keeps the state twice, whole and narrow, and lean once",
                given=f"compact_every={self.compact_every}, lean=True",
                accepted="one of them",
            )

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "turbo" if self.factorisation == "structured" else "turbo (mean field)"

    @property
    def full_batch(self) -> bool:
        """True for exact weights."""
        return self.weights == "exact"

    @property
    def distributed(self) -> bool:
        """Whether several processes can train together: not with exact weights."""
        return self.weights != "exact"

    def init(self, bnn: BayesianNet, plan: Plan) -> TurboState:
        """See `Engine.init`."""
        if self.weights == "exact":
            return LinearGaussianState(bnn, self, plan.num_steps)
        make = LeanTurboVBI if self.lean else TurboVBI
        state = make(bnn, settings=self, num_steps=plan.num_steps, world=plan.world)
        state.setup(*plan.example)
        if self.compact_every is not None or self.reorder_every is not None:
            return RestructuringTurbo(
                state, plan, compact_every=self.compact_every, reorder_every=self.reorder_every
            )
        return state

    def step(self, state: TurboState, batch: Batch) -> float:
        """See `Engine.step`."""
        if isinstance(state, LinearGaussianState):
            return state.step(_design(batch), batch.y)
        return state.step(batch) if isinstance(state, RestructuringTurbo) else state.step(*batch)

    def evaluate(self, state: TurboState, batch: Batch) -> float:
        """See `Engine.evaluate`."""
        if isinstance(state, LinearGaussianState):
            return state.loss(_design(batch), batch.y)
        if isinstance(state, RestructuringTurbo):
            return state.evaluate_loss(batch)
        return state.evaluate_loss(*batch)

    def finish(self, state: TurboState) -> None:
        """Bring the supports up to date with the last q(w)."""
        if isinstance(state, RestructuringTurbo):
            state.finish()
        elif isinstance(state, TurboVBI):
            state.exchange()

    def posterior(self, state: TurboState) -> Posterior:
        """See `Engine.posterior`."""
        if isinstance(state, LinearGaussianState):
            return state.result()
        if isinstance(state, RestructuringTurbo):
            return self.posterior(state.update_whole())
        factors = list(state.guide)
        probs = {n: s.probs for n, s in state.sites.items() if isinstance(s, ThreeLayerSite)}
        return DiagonalPosterior(
            loc={f.name: f.loc.detach().clone() for f in factors},
            scales={f.name: f.scale.detach() for f in factors},
            support={name: p.clone() for name, p in probs.items()} or None,
            hyperparameters=learned_hyperparameters(state.sites.values(), self),
            gates=state.gates.probs() if state.gates is not None else {},
        )

    def elbo_kind(self, state: TurboState) -> str:
        """See `Engine.elbo_kind`: "Bethe" under a grid or shared gates, otherwise "bound"."""
        if isinstance(state, RestructuringTurbo):
            return self.elbo_kind(state.whole)
        if isinstance(state, TurboVBI) and state.gates is not None:
            return "Bethe"
        sites = (
            [state.site] if isinstance(state, LinearGaussianState) else list(state.sites.values())
        )
        grids = [
            site
            for site in sites
            if isinstance(site, SpikeSlab) and _on_a_grid(site.module_b.distribution)
        ]
        return "Bethe" if grids else "bound"


def _on_a_grid(distribution: SupportDistribution) -> bool:
    while isinstance(distribution, BlockSupport):
        distribution = distribution.blocks
    return isinstance(distribution, MarkovGridSupport)


def _design(batch: Batch) -> torch.Tensor:
    x = batch.x
    if not isinstance(x, torch.Tensor) or x.dim() != 2:
        raise UnsupportedError(
            "exact weights need one input tensor of rows",
            given=tuple(x.shape) if isinstance(x, torch.Tensor) else list(x),
            accepted='x: Tensor [points, features], or weights="diagonal"',
        )
    return x
