"""Turbo-VBI's state at one weight site: what ties Module A and Module B to a variational factor.

Every site answers two questions: under which precision is q(w) trained (`precision`), and what is
the prior's part of the ELBO (`prior_bound`), E_q[ln p(w, rho, s)] + H(q(rho, s)).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import e, inf, log, pi, sqrt
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_turbovbi.engines.turbo.module_a import (
    ModuleA,
    mean_field,
    mixed_precision,
    structured,
)
from pyro_turbovbi.engines.turbo.module_b import ModuleB
from pyro_turbovbi.engines.turbo.reduction import REACH, Reduction
from pyro_turbovbi.engines.turbo.settings import TurboSettings
from pyro_turbovbi.families.factors import NormalFactor, ThreeLayerFactor
from pyro_turbovbi.kernels.evidence import expected_precision
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.priors.hyperparameters import Hyperparameters, three_layer
from pyro_turbovbi.priors.normal import Normal
from pyro_turbovbi.priors.three_layer import Components, GammaParameters, ThreeLayer

SiteT = TypeVar("SiteT", bound="SiteState")
ThreeLayerT = TypeVar("ThreeLayerT", bound="ThreeLayerSite")


@dataclass(frozen=True, eq=False)
class Place:
    """Where the elements that take part in the training lie in the whole weight.

    Attributes:
        shape: Shape of the whole weight.
        index: What to index it with to get them; None: all of it.
    """

    shape: torch.Size
    index: tuple[Tensor, ...] | None = None

    def gather(self, whole: Tensor) -> Tensor:
        """The part of a whole tensor; the tensor itself where the part is all of it."""
        return whole if self.index is None else whole[self.index]

    def embed(self, part: Tensor, absent: float) -> Tensor:
        """The whole tensor with one value for all elements that do not take part."""
        if self.index is None:
            return part
        whole = part.new_full(self.shape, absent)
        whole[self.index] = part
        return whole

    def absent(self, part: Tensor) -> int:
        """Number of elements that do not take part."""
        return self.shape.numel() - part.numel()


class SiteState(ABC):
    """State of one weight site.

    Attributes:
        name: The site's name.
        precision: E[rho], the weight's shape or a scalar.
        place: Where the elements lie that take part in the training.
    """

    name: str
    precision: Tensor
    place: Place

    @abstractmethod
    def prior_bound(self, second_moment: Tensor) -> Tensor:
        """Prior's part of the ELBO where q(w) has the given E[w^2]; scalar, in nats."""

    @property
    @abstractmethod
    def absent_scale(self) -> float:
        """Posterior standard deviation of elements that the data do not reach."""

    def narrowed(self: SiteT, place: Place, factor: NormalFactor) -> SiteT:
        """The same state for a part of the weight; what Module B knows stays whole and shared.

        Args:
            place: The part.
            factor: Its variational factor.
        """
        new = copy.copy(self)
        new.place = place
        return new

    def widened(self: SiteT, factor: NormalFactor) -> SiteT:
        """The inverse of `narrowed`, with the whole weight's factor."""
        new = copy.copy(self)
        new.place = Place(self.place.shape)
        return new

    def refresh(self, second_moment: Tensor) -> None:  # noqa: B027 - nothing to do by default
        """Closed-form update of the precision (and of q(s) with Module B's message held)."""

    def exchange(self, second_moment: Tensor) -> None:  # noqa: B027
        """Full exchange with the site's own Module B, if it has one."""

    def anneal(self, progress: float) -> None:  # noqa: B027
        """Move the spike to where the schedule has it at a fraction of the training."""

    def state_dict(self) -> dict[str, Any]:
        """What training has changed, see `engines.protocol.Resumable`."""
        return {}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:  # noqa: B027
        """Go on from what `state_dict` gave."""


class FixedPrecision(SiteState):
    """A site under a Gaussian prior: nothing but q(w) is to be inferred."""

    def __init__(self, site: WeightSite, factor: NormalFactor) -> None:
        assert isinstance(site.prior, Normal)
        self.name, self.place = site.name, Place(site.shape)
        self.precision = factor.loc.new_tensor(site.prior.scale**-2)

    @property
    def absent_scale(self) -> float:
        """The prior's."""
        return 1.0 / sqrt(float(self.precision))

    def prior_bound(self, second_moment: Tensor) -> Tensor:
        """E_q[ln Normal(w; 0, 1 / rho)] summed over elements."""
        constant = 0.5 * second_moment.numel() * (self.precision.log() - log(2 * pi))
        return constant - 0.5 * self.precision * second_moment.sum()


class ThreeLayerSite(SiteState):
    """A site under the three-layer prior, up to how messages are passed over its support.

    Attributes:
        components: The two Gamma components at present.
        probs: q(s = 1).
        reduction: What model reduction has decided of active weights; None where it is off.
        travel: How far a mean could go in the whole training at the first learning rate.
    """

    reduction: Reduction | None
    travel: float = inf

    def __init__(self, site: WeightSite, factor: ThreeLayerFactor, settings: TurboSettings) -> None:
        assert isinstance(site.prior, ThreeLayer)
        self.name, self.place = site.name, Place(site.shape)
        self._factor = factor
        self._final = site.prior.components(site.shape)
        self._settings = settings
        self.components: Components = settings.annealing.components(self._final, 0.0)
        self.probs = torch.full_like(factor.loc, float(settings.start == "active")).detach()
        self._learning = settings.learn_hyper and settings.annealing.done(0.0)
        self.reduction = Reduction(factor.loc) if settings.reduces else None
        self._share, self._deciding, self._reach = 0.0, False, 0.0
        self._offset = factor.loc.new_zeros(())
        self._tangent = factor.loc.new_zeros(())

    @property
    def absent_scale(self) -> float:
        """The spike's: at m = b0 / a0 q(w) and E[rho] | s = 0 agree."""
        return self.components.inactive.scale

    def narrowed(self: ThreeLayerT, place: Place, factor: NormalFactor) -> ThreeLayerT:
        """See `SiteState.narrowed`."""
        assert isinstance(factor, ThreeLayerFactor)
        new = super().narrowed(place, factor)
        new._factor = factor
        new.probs, new.precision = place.gather(self.probs), place.gather(self.precision)
        new.reduction = self.reduction and self.reduction.mapped(place.gather)
        return new

    def widened(self: ThreeLayerT, factor: NormalFactor) -> ThreeLayerT:
        """See `SiteState.widened`."""
        assert isinstance(factor, ThreeLayerFactor)
        new = super().widened(factor)
        new._factor = factor
        inactive = 1.0 / self.absent_scale**2
        new.probs = self.place.embed(self.probs, 0.0)
        new.precision = self.place.embed(self.precision, inactive)
        new.reduction = self.reduction and self.reduction.mapped(self._embed_undecided)
        return new

    def _embed_undecided(self, part: Tensor) -> Tensor:
        return self.place.embed(part, 0.0)

    def held_tensors(self) -> Iterator[Tensor]:
        """Every tensor of the weight's shape that the state is made of."""
        yield self.probs
        yield self.precision
        for reduction, *_ in self._reductions():
            yield from reduction.tensors()

    def anneal(self, progress: float) -> None:
        """See `SiteState.anneal`."""
        annealing = self._settings.annealing
        self.components = annealing.components(self._final, progress)
        # While the spike is wide next to nothing is active: EM would learn an empty support.
        self._learning = self._settings.learn_hyper and annealing.done(progress)
        self._factor.components = self.components
        schedule = self._settings.reduction
        if self.reduction is not None and schedule is not None:
            self._share = schedule.share_at(progress)
            self._deciding = schedule.decides_at(progress)
            self._reach = REACH * self.travel * self._settings.travel_left_at(progress)

    @torch.no_grad()
    def clear_inactive(self) -> None:
        """Put the means of inactive elements to zero."""
        self._factor.loc.mul_(self.probs > 0.5)

    def _decide(self, second_moment: Tensor) -> None:
        """Let model reduction decide anew; E[rho] must still be that of the last steps."""
        if not self._deciding:
            return
        llr = structured(second_moment, self.components).llr
        loc, scale = self._factor.loc.detach(), self._factor.scale.detach()
        for reduction, law, blame in self._reductions():
            reduction.decide(loc, scale, self.precision, law, llr, self._reach, blame)

    def _mixed(self, second_moment: Tensor, probs: Tensor) -> Tensor:
        """E[rho] where the weight is active with the given probabilities."""
        least = None if self.reduction is None else self.reduction.precision
        return mixed_precision(second_moment, probs, self.components, least)

    def _reductions(self) -> Iterator[tuple[Reduction, GammaParameters, float]]:
        """What model reduction decides on, the law that each one reduces to, and its blame."""
        if self.reduction is not None:
            yield self.reduction, self.components.inactive, 1.0

    def state_dict(self) -> dict[str, Any]:
        """See `SiteState.state_dict`."""
        return {
            "components": [list(gamma) for gamma in self.components],
            "final": [list(gamma) for gamma in self._final],
            "learning": self._learning,
            "deciding": [self._share, self._deciding, self._reach],
            "probs": self.probs,
            "precision": self.precision,
            "offset": self._offset,
            "tangent": self._tangent,
            "reductions": [list(reduction.tensors()) for reduction, *_ in self._reductions()],
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `SiteState.load_state_dict`."""
        device = self.probs.device
        self.components, self._final = (
            Components(*(GammaParameters(*gamma) for gamma in saved[name]))
            for name in ("components", "final")
        )
        self._factor.components, self._learning = self.components, saved["learning"]
        self._share, self._deciding, self._reach = saved["deciding"]
        self.probs, self.precision, self._offset, self._tangent = (
            saved[name].to(device, copy=True)
            for name in ("probs", "precision", "offset", "tangent")
        )
        for (reduction, *_), tensors in zip(self._reductions(), saved["reductions"], strict=True):
            reduction.load(tensors)

    def prior_bound(self, second_moment: Tensor) -> Tensor:
        """See `SiteState.prior_bound`."""
        return self._tangent - 0.5 * _dot(self.precision, second_moment)

    def _continue_from(self, value: Tensor, precision: Tensor, second_moment: Tensor) -> None:
        """Note E[rho], and the ELBO part with its slope -E[rho] / 2 at the given E[w^2]."""
        self.precision = precision
        self._tangent = value + self._offset + 0.5 * _dot(precision, second_moment)

    def _absent_evidence(self) -> ModuleA:
        """Module A's evidence of one element that the data do not reach."""
        return structured(self.probs.new_tensor(self.absent_scale**2), self.components)

    def _absent_bound(self, part: Tensor) -> float:
        """ELBO part and entropy of all such elements, up to what Module B says of them."""
        entropy = 0.5 * log(2 * pi * e * self.absent_scale**2)
        return self.place.absent(part) * (float(self._absent_evidence().base) + entropy)

    def _learn_slab(self, second_moment: Tensor) -> None:
        """M-step of the slab's rate: sum q1 a1 = b1 sum q1 E[rho | s = 1]."""
        (a, b), inactive = self.components
        active = float(self.probs.sum())
        if active < 1.0:  # less than one weight's worth of evidence says nothing about the slab
            return
        precision = _dot(self.probs, expected_precision(second_moment, a, b))
        slab = GammaParameters(a, a * active / float(precision))
        self.components = Components(slab, inactive)
        self._final = Components(slab, self._final.inactive)
        self._factor.components = self.components


class SpikeSlab(ThreeLayerSite):
    """A site under the three-layer prior with a support of its own.

    The ELBO part is exact right after an exchange (Bethe for a grid). Between exchanges it is
    continued with Module B's message held, and between refreshes along its tangent, whose slope
    -E[rho] / 2 is what q(w) is trained with.

    Attributes:
        prior_log_odds: logit(pi), Module B's extrinsic message.
    """

    def __init__(self, site: WeightSite, factor: ThreeLayerFactor, settings: TurboSettings) -> None:
        super().__init__(site, factor, settings)
        assert isinstance(site.prior, ThreeLayer)
        distribution = site.prior.support_distribution(site.shape)
        self.module_b = ModuleB(distribution, damping=settings.damping, site=site.name)
        self._messages = torch.full_like(factor.loc, float(distribution.prior_log_odds)).detach()
        self.prior_log_odds = self._messages
        self.exchange(factor.second_moment().detach())

    def narrowed(self, place: Place, factor: NormalFactor) -> SpikeSlab:
        """See `SiteState.narrowed`."""
        new = super().narrowed(place, factor)
        new.prior_log_odds = place.gather(self._messages)
        return new

    def widened(self, factor: NormalFactor) -> SpikeSlab:
        """See `SiteState.widened`."""
        new = super().widened(factor)
        new.prior_log_odds = self._messages
        return new

    def held_tensors(self) -> Iterator[Tensor]:
        """See `ThreeLayerSite.held_tensors`."""
        yield from super().held_tensors()
        yield self.prior_log_odds

    def state_dict(self) -> dict[str, Any]:
        """See `SiteState.state_dict`."""
        module_b = self.module_b.state_dict(learning=self._settings.learn_hyper)
        return super().state_dict() | {"messages": self._messages, "module_b": module_b}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `SiteState.load_state_dict`."""
        super().load_state_dict(saved)
        self._messages.copy_(saved["messages"])  # in place: narrowed states share them
        self.prior_log_odds = self.place.gather(self._messages)
        self.module_b.load_state_dict(saved["module_b"], device=self._messages.device)

    def refresh(self, second_moment: Tensor) -> None:
        """See `SiteState.refresh`."""
        self._accept(self._evidence(second_moment), second_moment)

    def exchange(self, second_moment: Tensor) -> None:
        """See `SiteState.exchange`.

        Raises:
            NumericalError: if the log-likelihood ratios are not finite; nothing has been changed
                then.
        """
        if self._learning:
            self._learn_slab(second_moment)
        evidence = self._evidence(second_moment)
        llr = evidence.llr
        if self.place.index is not None:
            llr = self.place.embed(llr, float(self._absent_evidence().llr))
        posterior = self.module_b.exchange(llr, self._messages, learn=self._learning)
        assert posterior.log_evidence is not None
        self.prior_log_odds = self.place.gather(self._messages)
        # Chosen so that the ELBO part is Module B's log-evidence now, and moves with q(s) until
        # the next exchange.
        held = softplus(self.prior_log_odds + evidence.llr).sum()
        self._offset = posterior.log_evidence.to(held) - held + self._absent_bound(evidence.llr)
        with torch.no_grad():
            self._factor.support_log_odds.copy_(self.place.gather(posterior.log_odds))
        self._decide(second_moment)
        self._accept(evidence, second_moment)

    def _evidence(self, second_moment: Tensor) -> ModuleA:
        if self._settings.factorisation == "mean_field":
            return mean_field(second_moment, self.probs, self.components)
        evidence = structured(second_moment, self.components)
        if self._share and self.reduction is not None:
            evidence.llr.add_(self.reduction.change, alpha=self._share)
        return evidence

    def _accept(self, evidence: ModuleA, second_moment: Tensor) -> None:
        log_odds = self.prior_log_odds + evidence.llr
        self.probs = log_odds.sigmoid()
        precision = evidence.precision
        if precision is None:
            precision = self._mixed(second_moment, self.probs)
        value = evidence.base + softplus(log_odds).sum()
        self._continue_from(value, precision, second_moment)


def make_site(site: WeightSite, factor: NormalFactor, settings: TurboSettings) -> SiteState:
    """The state that belongs to a site's prior."""
    if isinstance(factor, ThreeLayerFactor):
        return SpikeSlab(site, factor, settings)
    return FixedPrecision(site, factor)


def learned_hyperparameters(
    sites: Iterable[SiteState], settings: TurboSettings
) -> dict[str, Hyperparameters]:
    """Hyper-parameters as they are now, by site name; of no site where none are learned."""
    if not settings.learn_hyper:
        return {}
    return {
        site.name: three_layer(site.module_b.distribution, site.components)
        for site in sites
        if isinstance(site, SpikeSlab)
    }


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a.flatten().dot(b.flatten())
