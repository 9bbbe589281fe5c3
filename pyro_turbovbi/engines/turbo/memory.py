"""How many floats a weight takes while Turbo-VBI trains it, counted from the tensors themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from pyro_turbovbi.engines.turbo.shared_gates import GatedSpikeSlab
from pyro_turbovbi.engines.turbo.site import SpikeSlab, ThreeLayerSite
from pyro_turbovbi.engines.turbo.vbi import TurboVBI
from pyro_turbovbi.families.factors import NormalFactor, ThreeLayerFactor
from pyro_turbovbi.lift import BayesianNet


@dataclass(frozen=True)
class MemoryReport:
    """Floats that a training holds for its weights, between two steps.

    Attributes:
        weights: Number of weights that have a prior.
        held: Number of floats of every kind. A float is as wide as a weight.
    """

    weights: int
    held: Mapping[str, int]

    @property
    def per_weight(self) -> dict[str, float]:
        """Floats a weight, by kind; kinds of which there are none are left out."""
        return {kind: count / self.weights for kind, count in self.held.items() if count}

    @property
    def total(self) -> float:
        """Floats a weight, all kinds together."""
        return sum(self.held.values()) / self.weights

    def __str__(self) -> str:
        rows = [*self.per_weight.items(), ("total", self.total)]
        width = max(len(kind) for kind, _ in rows)
        lines = [f"{kind:<{width}}  {floats:6.2f}" for kind, floats in rows]
        return "\n".join([f"floats a weight, {self.weights:,} weights", *lines])


def memory_report(run: TurboVBI) -> MemoryReport:
    """Count what a run holds for its weights.

    What is needed within a step comes on top: the drawn weights and their gradients, in the
    ordinary mode further tensors of their size, activations. Parameters that are trained as points
    are not counted. Memory that two tensors share is counted once.

    Args:
        run: A run that has been set up; after a step or more, the optimizer has its moments.
    """
    seen: set[int] = set()
    held = {
        kind: sum(_floats(tensor) for tensor in tensors if _new(tensor, seen))
        for kind, tensors in _kinds(run)
    }
    return MemoryReport(sum(factor.loc.numel() for factor in run.guide), held)


def _new(tensor: Tensor, seen: set[int]) -> bool:
    place = tensor.untyped_storage().data_ptr()
    new = place not in seen
    seen.add(place)
    return new


def _floats(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()


def _kinds(run: TurboVBI) -> Iterator[tuple[str, Iterable[Tensor]]]:
    factors, sites = list(run.guide), list(run.sites.values())
    layered = [site for site in sites if isinstance(site, ThreeLayerSite)]
    parameters = [p for factor in factors for p in (factor.loc, factor.log_scale)]
    yield "mu and ln sigma", parameters
    yield "optimizer", [m for parameter in parameters for m in _moments(run, parameter)]
    yield "messages", _messages(run, layered)
    yield "log-odds of q(s), for the guide", _log_odds(factors)
    yield "model reduction", [t for site in layered for t in _reductions(site)]
    yield "q(s) and E[rho]", [t for site in layered for t in site.held_tensors()]
    yield "message passing's results", _results(layered)
    yield "noise", run.noises
    yield "gradients", [p.grad for p in parameters if p.grad is not None]
    yield "the network's own weights", _own_weights(run)
    yield "start values", [s.init for s in run.guide.sites.values() if s.init is not None]


def _moments(run: TurboVBI, parameter: Tensor) -> Iterator[Tensor]:
    state: Mapping[str, object] = run.optimizer.state.get(parameter, {})
    yield from (v for v in state.values() if isinstance(v, Tensor) and v.shape == parameter.shape)


def _log_odds(factors: Iterable[NormalFactor]) -> Iterator[Tensor]:
    return (f.support_log_odds for f in factors if isinstance(f, ThreeLayerFactor))


def _messages(run: TurboVBI, sites: Iterable[ThreeLayerSite]) -> Iterator[Tensor]:
    for site in sites:
        if isinstance(site, SpikeSlab):
            yield site.prior_log_odds
            warm = site.module_b.state_dict(learning=False)["messages"]
            yield from () if warm is None else (warm,)
        elif isinstance(site, GatedSpikeSlab):
            yield from site.messages
            yield from site.whole_messages
    if run.gates is not None:
        for sent in run.gates.state_dict()["messages"] or ():
            yield from sent


def _results(sites: Iterable[ThreeLayerSite]) -> Iterator[Tensor]:
    for site in sites:
        if isinstance(site, SpikeSlab):
            yield from site.module_b.results()


def _reductions(site: ThreeLayerSite) -> Iterator[Tensor]:
    found = [site.reduction]
    if isinstance(site, GatedSpikeSlab):
        found += [site.closing, site.row_closing]
    for reduction in found:
        if reduction is not None:
            yield from reduction.tensors()


def _own_weights(run: TurboVBI) -> Iterator[Tensor]:
    if isinstance(run.model, BayesianNet):
        parameters = dict(run.model.net.named_parameters())
        yield from (parameters[name] for name in run.sites)


__all__ = ["MemoryReport", "memory_report"]
