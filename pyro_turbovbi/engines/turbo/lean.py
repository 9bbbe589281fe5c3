"""Turbo-VBI in less memory: what follows from q(w) and the messages is computed, not kept.

Given Module B's message, q(s) and E[rho] are functions of mu and sigma. So they are computed where
the gradients need them, some rows of a weight after the others, and are gone when that is done: as
many rows at a time as fit a processor's cache, so that nothing but results is written to memory.
The noise of the second step of an antithetic pair is drawn once more, from the random state that
the first one had, and of any noise only what it did to the weights is kept; gradients go once the
optimizer has used them. What a weight keeps from step to step is

    mu, ln sigma                       2 floats
    Adam's two moments of each         4
    logit(pi), Module B's message      1       (two under shared gates, and Module B's own)
    the guide's log-odds of q(s)       1

What model reduction has decided, two floats, or four to six under shared gates, cannot be computed
again and comes on top of it, as do the network's own weights, from which q(w) started. Where there
is model reduction or EM, an exchange reads what the step before has found: then q(s) and E[rho]
stay for that one step. While inactive means are held at zero they stay until the optimizer has
stepped.
It is the ordinary engine with ``refresh_every=1``, to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from pyro_turbovbi.engines.turbo.module_a import structured
from pyro_turbovbi.engines.turbo.reduction import Rows
from pyro_turbovbi.engines.turbo.shared_gates import GatedEvidence, GatedSpikeSlab
from pyro_turbovbi.engines.turbo.site import SiteState, SpikeSlab, ThreeLayerSite
from pyro_turbovbi.engines.turbo.vbi import TurboVBI, _Draw
from pyro_turbovbi.families.factors import NormalFactor, ThreeLayerFactor, normal_entropy
from pyro_turbovbi.kernels.unit_gates import ElementMessages

LeanT = TypeVar("LeanT", bound="LeanSite")

#: Elements that are worked on together: a CPU's cache holds what is computed of them; a GPU is
#: busy with them for longer than their kernels take to start.
TOGETHER = {"cpu": 2**16}
TOGETHER_ELSEWHERE = 2**24


def rows_of(weight: Tensor) -> Iterator[Rows]:
    """Indices that divide a weight into parts of about `TOGETHER` elements, whole rows each."""
    together = TOGETHER.get(weight.device.type, TOGETHER_ELSEWHERE)
    if weight.numel() <= together or not weight.dim():
        yield ...
        return
    step = max(1, together * len(weight) // weight.numel())
    for start in range(0, len(weight), step):
        yield slice(start, start + step)


class NormalRows(NamedTuple):
    """Some rows of q(w).

    Attributes:
        loc: mu.
        scale: sigma.
        second_moment: E[w^2].
        entropy: Their entropy; scalar, in nats.
    """

    loc: Tensor
    scale: Tensor
    second_moment: Tensor
    entropy: Tensor


def q_rows(factor: NormalFactor, rows: Rows) -> NormalRows:
    """Some rows of q(w), computed from its parameters."""
    loc, log_scale = factor.loc.detach()[rows], factor.log_scale.detach()[rows]
    scale = log_scale.exp()
    return NormalRows(loc, scale, scale.square().addcmul_(loc, loc), normal_entropy(log_scale))


class LeanSite(ThreeLayerSite):
    """A site whose q(s) and E[rho] are there while they are used; a mixin.

    Read when they are not held, they are those of the present q(w).
    """

    _probs: Tensor | None = None
    _precision: Tensor | None = None

    @property
    def probs(self) -> Tensor:
        """q(s = 1)."""
        if self._probs is None:
            self.hold()
        assert self._probs is not None
        return self._probs

    @probs.setter
    def probs(self, value: Tensor) -> None:
        self._probs = value

    @property
    def precision(self) -> Tensor:
        """E[rho]."""
        self.hold()
        assert self._precision is not None
        return self._precision

    @precision.setter
    def precision(self, value: Tensor) -> None:
        self._precision = value

    @property
    def held(self) -> bool:
        """Whether both are held."""
        return self._precision is not None

    @property
    def remembers(self) -> bool:
        """Whether an exchange reads what the step before has found: reduction and EM do."""
        return self._settings.reduces or self._settings.learn_hyper

    def rows(self: LeanT, rows: Rows) -> LeanT:
        """The state of some rows, in views; their parts of the ELBO add up to the weight's."""
        new = copy.copy(self)
        new.reduction = self.reduction and self.reduction.rows(rows)
        if self._probs is not None and self._precision is not None:
            new._probs, new._precision = self._probs[rows], self._precision[rows]
        if rows is not ... and rows.start:  # what belongs to the whole is counted once
            new._offset = new._tangent = self._offset.new_zeros(())
        return new

    @torch.no_grad()
    def hold(self) -> None:
        """Compute both if they are not held."""
        if self.held:
            return
        probs, precision = (torch.empty_like(self._factor.loc) for _ in range(2))
        tangents = []
        for part in rows_of(self._factor.loc):
            rows = self.rows(part)
            rows.refresh(q_rows(self._factor, part).second_moment)
            probs[part], precision[part] = rows.probs, rows.precision
            tangents.append(rows._tangent)
        self._probs, self._precision = probs, precision
        self._tangent = torch.stack(tangents).sum()

    def release(self) -> None:
        """Hold neither."""
        self._probs = self._precision = None

    def settled(self) -> None:
        """After an exchange: what it found counts in this step if it cannot be computed again.

        Model reduction decides after Module A has spoken, and is heard the next time.
        """
        if not self.remembers:
            self.release()

    @contextmanager
    def _nothing_computed(self) -> Iterator[Tensor]:
        """Context in which an empty tensor stands for each of the two that is not held."""
        held, empty = self.held, self._offset.new_empty(0)
        if not held:
            self._probs = self._precision = empty
        try:
            yield empty
        finally:
            if not held:
                self.release()

    def held_tensors(self) -> Iterator[Tensor]:
        """See `ThreeLayerSite.held_tensors`; no more than there are."""
        with self._nothing_computed() as empty:
            tensors = [tensor for tensor in super().held_tensors() if tensor is not empty]
        yield from tensors

    def _decide(self, second_moment: Tensor) -> None:
        """As `ThreeLayerSite._decide`, row after row."""
        if not self._deciding:
            return
        for part in rows_of(self._factor.loc):
            q = q_rows(self._factor, part)
            llr, precision = structured(q.second_moment, self.components).llr, self.precision[part]
            for whole, law, blame in self._reductions():
                rows = whole.rows(part)
                rows.decide(q.loc, q.scale, precision, law, llr, self._reach, blame)
                whole.change[part], whole.precision[part] = rows.tensors()

    def prior_bound(self, second_moment: Tensor) -> Tensor:
        """See `SiteState.prior_bound`."""
        self.hold()  # the tangent is of the same point as E[rho]
        return super().prior_bound(second_moment)

    def state_dict(self) -> dict[str, Any]:
        """See `SiteState.state_dict`."""
        held = self.held  # before something stands for it
        with self._nothing_computed():
            return super().state_dict() | {"held": held}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `SiteState.load_state_dict`."""
        super().load_state_dict(saved)
        if not saved["held"]:
            self.release()


class LeanSpikeSlab(LeanSite, SpikeSlab):
    """`SpikeSlab` that keeps nothing but Module B's messages from step to step."""

    def rows(self, rows: Rows) -> LeanSpikeSlab:
        """See `LeanSite.rows`."""
        new = super().rows(rows)
        new.prior_log_odds = self.prior_log_odds[rows]
        return new

    def exchange(self, second_moment: Tensor) -> None:
        """See `SpikeSlab.exchange`."""
        if self.remembers:
            self.hold()  # with the messages that the steps so far had
        super().exchange(second_moment)
        self.module_b.release()
        self.settled()


class LeanGatedSpikeSlab(LeanSite, GatedSpikeSlab):
    """`GatedSpikeSlab` that keeps nothing but messages from step to step."""

    def rows(self, rows: Rows) -> LeanGatedSpikeSlab:
        """See `LeanSite.rows`."""
        new = super().rows(rows)
        new.messages = ElementMessages(*(message[rows] for message in self.messages))
        new.closing = self.closing and self.closing.rows(rows)
        new.row_closing = self.row_closing and self.row_closing.rows(rows)
        return new

    def receive(self, elements: ElementMessages, damping: float) -> None:
        """See `GatedSpikeSlab.receive`."""
        if self.remembers:
            self.hold()
        super().receive(elements, damping)

    def settle(self, evidence: GatedEvidence, second_moment: Tensor, offset: Tensor) -> None:
        """See `GatedSpikeSlab.settle`."""
        super().settle(evidence, second_moment, offset)
        self.settled()


class _Moments(dict[str, Tensor]):
    """E[w^2] by site name, computed at every look-up."""

    def __init__(self, factors: Iterable[NormalFactor]) -> None:
        super().__init__()
        self._factors = {factor.name: factor for factor in factors}

    def __missing__(self, name: str) -> Tensor:
        return self._factors[name].second_moment()


class LeanTurboVBI(TurboVBI):
    """`TurboVBI` in less memory; see the module. Arguments: those of `TurboVBI`."""

    _noise_state: Tensor | None = None
    _prior: Tensor | None = None

    def step(self, *args: Any, **kwargs: Any) -> float:
        """See `TurboVBI.step`."""
        loss = super().step(*args, **kwargs)
        for factor in self._factors:
            factor.loc.grad = factor.log_scale.grad = None
        for site in self.sites.values():
            if isinstance(site, LeanSite) and not self._heard_at(self.steps_done, site):
                site.release()
        return loss

    def exchange(self) -> None:
        """See `TurboVBI.exchange`."""
        with torch.no_grad():
            for site in self.sites.values():
                site.anneal(self.progress)
            self._exchange(_Moments(self._factors))
        self._settle()

    def state_dict(self) -> dict[str, Any]:
        """See `TurboVBI.state_dict`."""
        return super().state_dict() | {"noise_state": self._noise_state}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `TurboVBI.load_state_dict`."""
        super().load_state_dict(saved)
        state = saved["noise_state"]
        self._noise_state = None if state is None else state.cpu().clone()

    def _make_site(self, factor: NormalFactor) -> SiteState:
        site = self.guide.sites[factor.name]
        if not isinstance(factor, ThreeLayerFactor):
            return super()._make_site(factor)
        make = LeanSpikeSlab if site.gates is None else LeanGatedSpikeSlab
        return make(site, factor, self.settings)

    def _training_noise(self) -> list[Tensor]:
        """As `TurboVBI._training_noise`; the mirror image is drawn from the same random state."""
        device = self._factors[0].loc.device
        if self.steps_done % 2 == 0:
            self._noise_state = _random_state(device)
            return self._fresh_noise()
        assert self._noise_state is not None
        generator = torch.Generator(device)
        generator.set_state(self._noise_state)
        return [_normal_like(factor.loc, generator).neg_() for factor in self._factors]

    @torch.no_grad()
    def _draw(self, noises: list[Tensor]) -> _Draw:
        weights = {
            factor.name: factor.scale.mul_(noise).add_(factor.loc)
            for factor, noise in zip(self._factors, noises, strict=True)
        }
        noises.clear()  # what a gradient needs of it, scale * noise, is drawn weight - mean
        return _Draw([], noises, weights, [])

    def _begin_step(self) -> _Draw:
        """As `TurboVBI._begin_step`; what is drawn is not there yet while messages are passed."""
        self._closed_form_updates([])
        return self._draw(self._training_noise())

    @torch.no_grad()
    def _closed_form_updates(self, second_moments: list[Tensor]) -> None:
        for site in self.sites.values():
            site.anneal(self.progress)
        if self._exchanges_at(self.steps_done):
            self._exchange(_Moments(self._factors))
            return
        for site in self.sites.values():
            if isinstance(site, LeanSite):
                site.release()  # somebody may have looked at it since

    def _exchanges_at(self, step: int) -> bool:
        return step % self.settings.message_interval(self.num_steps) == 0

    def _heard_at(self, step: int, site: LeanSite) -> bool:
        """Whether an exchange at the given step reads what the step before has found."""
        return self._exchanges_at(step) and site.remembers

    @torch.no_grad()
    def _set_gradients(self, draw: _Draw) -> None:
        """As `TurboVBI._set_gradients`, with E[rho] of the present q(w), row after row.

        The gradients take the places of the drawn weight and of its gradient.
        """
        beta, prior = self.settings.kl_weight_at(self.progress), []
        after = self.steps_done + 1
        settles = self.settings.settles_at(after / self.num_steps)  # reads q(s) of this step
        for factor, site in zip(self._factors, self.sites.values(), strict=True):
            drawn = draw.weights.pop(factor.name)
            gradient, drawn = drawn.grad, drawn.detach()
            assert gradient is not None
            stays = isinstance(site, LeanSite) and (settles or self._heard_at(after, site))
            if isinstance(site, LeanSite) and stays:
                site.hold()
            for part in rows_of(factor.loc):
                q = q_rows(factor, part)
                precision, bound = _updated(site, q, part)
                pull = drawn[part].sub_(q.loc).mul_(gradient[part])
                pull.addcmul_(q.scale.square_(), precision, value=beta).sub_(beta)
                gradient[part].addcmul_(q.loc, precision, value=beta)
                prior.append(bound)
            factor.loc.grad, factor.log_scale.grad = gradient, drawn
            if isinstance(site, LeanSite) and not stays:
                site.release()
        self._prior = -torch.stack(prior).sum()

    def _prior_loss(self, second_moments: list[Tensor]) -> Tensor:
        """As `TurboVBI._prior_loss`: in a step, what its gradients gave; elsewhere computed."""
        if self._prior is not None:
            prior, self._prior = self._prior, None
            return prior
        return -torch.stack([bound for _, bound in self._bounds()]).sum()

    def _source(self, draw: _Draw) -> str:
        for name, bound in self._bounds():
            if not bool(bound.isfinite()):
                return f"by the prior of weight {name!r}"
        return "by the likelihood"

    @torch.no_grad()
    def _bounds(self) -> Iterator[tuple[str, Tensor]]:
        """Every site's part of the ELBO beside the likelihood, at the present q(w)."""
        for factor, site in zip(self._factors, self.sites.values(), strict=True):
            parts = [_updated(site, q_rows(factor, rows), rows)[1] for rows in rows_of(factor.loc)]
            yield site.name, torch.stack(parts).sum()


def _updated(site: SiteState, q: NormalRows, rows: Rows) -> tuple[Tensor, Tensor]:
    """E[rho] of some rows, and their part of the ELBO beside the likelihood (scalar, in nats)."""
    if isinstance(site, LeanSite):
        site = site.rows(rows)
        if not site.held:
            site.refresh(q.second_moment)
    return site.precision, q.entropy + site.prior_bound(q.second_moment)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _normal_like(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty_like(like).normal_(generator=generator)


__all__ = ["LeanGatedSpikeSlab", "LeanSite", "LeanSpikeSlab", "LeanTurboVBI"]
