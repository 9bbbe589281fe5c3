"""From the latent sites that a stock algorithm infers to the weights, and what priors allow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, constraints

from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.posterior import Weights
from pyro_turbovbi.priors.base import Moments, WeightSite

Sites = Mapping[str, WeightSite]

_ENGINES = {"map": "engines.MAP()", "vi": "engines.SVI()", "mcmc": "engines.NUTS()"}


def require_inference(sites: Sites, kind: str, engine: str) -> None:
    """Refuse priors that are not meant for a way of inference.

    Args:
        sites: Weight sites by name.
        kind: One of `priors.base.INFERENCE`.
        engine: The engine's short name, for the message.

    Raises:
        UnsupportedError: if there is such a prior; the message names the engines that take it.
    """
    refused = {name: s.prior for name, s in sites.items() if kind not in s.prior.inference}
    if not refused:
        return
    common = frozenset.intersection(*(prior.inference for prior in refused.values()))
    able = [text for way, text in _ENGINES.items() if way in common]
    reason = "it has no MAP estimate" if kind == "map" else "it is for MAP estimates only"
    raise UnsupportedError(
        f"engine {engine!r} cannot handle a prior of the model: {reason}",
        given=", ".join(f"{prior!r} of weight {name!r}" for name, prior in refused.items()),
        accepted=[*able, "another prior by bnn.with_prior(priors.Normal())"],
    )


def weights_from(sites: Sites, values: Mapping[str, Tensor]) -> Weights:
    """The weights that belong to values of the latent sites.

    Raises:
        UnsupportedError: if a latent site of a prior is missing among the values.
    """
    weights, missing = {}, []
    for name, site in sites.items():
        try:
            weights[name] = site.prior.weight(name, values).detach()
        except KeyError as error:
            missing.append(str(error.args[0]))
    if missing:
        raise UnsupportedError(
            "the guide does not sample every weight site",
            given=f"missing {', '.join(missing)}",
            accepted="a guide with one sample site per latent site of the model",
        )
    return weights


def start_values(sites: Sites) -> dict[str, Tensor]:
    """Values of the priors' latent sites at which the weights have their start values."""
    values: dict[str, Tensor] = {}
    for name, site in sites.items():
        if site.init is not None:
            values |= site.prior.start(name, site.init)
    return values


def point_moments(sites: Sites, values: Mapping[str, Tensor]) -> dict[str, Moments]:
    """Moments of a point: unconstrained values of the priors' continuous sites, scale zero."""
    free = {
        name: _unconstrained(values[name], support)
        for name, support in _supports(sites).items()
        if name in values
    }
    return {name: Moments(value, torch.zeros_like(value)) for name, value in free.items()}


def moments_of(
    sites: Sites, draw: Callable[[], Mapping[str, Tensor]], num_draws: int
) -> dict[str, Moments]:
    """Moments over draws of the priors' continuous sites, in unconstrained coordinates.

    The draws are always the same ones and leave the random state as it was: what a pruning rule
    says must not change from call to call, nor a call change the training.
    """
    supports = _supports(sites)
    devices = {s.init.device for s in sites.values() if s.init is not None and s.init.is_cuda}
    total: dict[str, Tensor] = {}
    square: dict[str, Tensor] = {}
    first: dict[str, Tensor] = {}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(0)
        for _ in range(num_draws):
            for name, value in draw().items():
                if name not in supports:
                    continue
                free = _unconstrained(value, supports[name])
                # sums of deviations from the first draw: no cancellation where the scale is small
                deviation = free - first.setdefault(name, free)
                total[name] = total.get(name, torch.zeros_like(free)) + deviation
                square[name] = square.get(name, torch.zeros_like(free)) + deviation.square()
    return {
        name: Moments(
            first[name] + total[name] / num_draws,
            ((square[name] - total[name].square() / num_draws).clamp(min=0) / (num_draws - 1))
            .sqrt(),
        )
        for name in first
    }  # fmt: skip


def _supports(sites: Sites) -> dict[str, constraints.Constraint]:
    """Constraint of every continuous latent site of the priors, from one draw of each prior."""
    found: dict[str, constraints.Constraint] = {}
    for name, site in sites.items():
        if site.prior.discrete:
            continue
        devices = [] if site.init is None or not site.init.is_cuda else [site.init.device]
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            trace: Any = poutine.trace(site.prior.sample).get_trace(
                name, site.shape, init=site.init
            )
        for latent in trace.stochastic_nodes:
            found[latent] = trace.nodes[latent]["fn"].support
    return found


def _unconstrained(value: Tensor, support: constraints.Constraint) -> Tensor:
    return biject_to(support).inv(value.detach())  # type: ignore[no-any-return]
