"""Turbo-VBI in less memory: what follows from q(w) and the messages is computed, not kept.

Given Module B's message, q(s) and E[rho] are functions of mu and sigma. So they are computed where
the gradients need them, one weight after the other, and are gone when the step is done. The noise
of the second step of an antithetic pair is drawn once more, from the random state that the first
one had; gradients go once the optimizer has used them. What a weight keeps from step to step is

    mu, ln sigma                       2 floats
    Adam's two moments of each         4
    logit(pi), Module B's message      1       (two under shared gates, and Module B's own)
    the guide's log-odds of q(s)       1

What model reduction has decided, two floats, or four under shared gates, cannot be computed again
and comes on top of it, as do the network's own weights, from which q(w) started. Where there is
model reduction or EM, an exchange reads what the step before has found: then q(s) and E[rho] stay
for that one step. While inactive means are held at zero they stay until the optimizer has stepped.
It is the ordinary engine with ``refresh_every=1``, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pyro_turbovbi.engines.turbo.shared_gates import GatedEvidence, GatedSpikeSlab
from pyro_turbovbi.engines.turbo.site import SiteState, SpikeSlab, ThreeLayerSite
from pyro_turbovbi.engines.turbo.vbi import TurboVBI, _Draw
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families.factors import NormalFactor, ThreeLayerFactor
from pyro_turbovbi.kernels.unit_gates import ElementMessages


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

    @torch.no_grad()
    def hold(self) -> None:
        """Compute both if they are not held."""
        if not self.held:
            self.refresh(self._factor.second_moment())

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

    def prior_bound(self, second_moment: Tensor) -> Tensor:
        """See `SiteState.prior_bound`."""
        self.hold()  # the tangent is of the same point as E[rho]
        return super().prior_bound(second_moment)

    def state_dict(self) -> dict[str, Any]:
        """See `SiteState.state_dict`."""
        with self._nothing_computed():
            return super().state_dict() | {"held": self.held}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `SiteState.load_state_dict`."""
        super().load_state_dict(saved)
        if not saved["held"]:
            self.release()


class LeanSpikeSlab(LeanSite, SpikeSlab):
    """`SpikeSlab` that keeps nothing but Module B's messages from step to step."""

    def exchange(self, second_moment: Tensor) -> None:
        """See `SpikeSlab.exchange`."""
        if self.remembers:
            self.hold()  # with the messages that the steps so far had
        super().exchange(second_moment)
        self.module_b.release()
        self.settled()


class LeanGatedSpikeSlab(LeanSite, GatedSpikeSlab):
    """`GatedSpikeSlab` that keeps nothing but messages from step to step."""

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
            factor.name: torch.addcmul(factor.loc, factor.scale, noise)
            for factor, noise in zip(self._factors, noises, strict=True)
        }
        return _Draw([], noises, weights, [])

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
        """As `TurboVBI._set_gradients`, with E[rho] of the present q(w), weight after weight."""
        beta, prior = self.settings.kl_weight_at(self.progress), []
        after = self.steps_done + 1
        settles = self.settings.settles_at(after / self.num_steps)  # reads q(s) of this step
        for factor, site in zip(self._factors, self.sites.values(), strict=True):
            gradient, scale = draw.weights[factor.name].grad, factor.scale
            if gradient is None:
                raise UnsupportedError(f"the model does not use its weight {factor.name!r}")
            second_moment = scale.square().addcmul_(factor.loc, factor.loc)
            if not (isinstance(site, LeanSite) and site.held):
                site.refresh(second_moment)
            prior.append(factor.entropy() + site.prior_bound(second_moment))
            pull = draw.noises.pop(0).mul_(gradient).addcmul_(scale, site.precision, value=beta)
            factor.log_scale.grad = pull.mul_(scale).sub_(beta)
            factor.loc.grad = gradient.addcmul_(factor.loc, site.precision, value=beta)
            if isinstance(site, LeanSite) and not (settles or self._heard_at(after, site)):
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
            held = not isinstance(site, LeanSite) or site.held
            yield site.name, factor.entropy() + site.prior_bound(factor.second_moment())
            if isinstance(site, LeanSite) and not held:
                site.release()


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _normal_like(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


__all__ = ["LeanGatedSpikeSlab", "LeanSite", "LeanSpikeSlab", "LeanTurboVBI"]
