"""Support probabilities of three-layer priors from a fitted guide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import autoguide as autoguides
from torch import Tensor

from pyro_turbovbi.batches import Batch
from pyro_turbovbi.engines._guides import own_parameters
from pyro_turbovbi.engines._latents import Sites
from pyro_turbovbi.families import RelaxedFactor, SiteGuide, TurboGuide
from pyro_turbovbi.posterior import Weights
from pyro_turbovbi.priors.three_layer import ThreeLayer, collapsed_support_probs, is_collapsed

#: Draws of the weights over which P(s = 1 | w) is averaged, and of guides that have to be run for
#: every one of them.
SUPPORT_DRAWS, SINGLE_DRAWS = 64, 16
_TOGETHER = 2**20  # weights that are drawn at once


def guide_support_probs(
    guide: Any, example: Batch, sites: Sites, draw: Callable[[], Weights]
) -> Weights | None:
    """P(s = 1 | data) of weights under three-layer priors, from draws of a guide.

    Where the prior is collapsed, P(s = 1 | w) is averaged over draws of the weights. The package's
    factors of a support know its probabilities. Where any other guide has a site
    ``{name}_support``, its mean given the sites before it is averaged over draws, or the draws
    themselves where the guide's law has no mean.

    The draws are always the same ones and leave the random state as it was: looking at a posterior
    must neither change what is drawn next nor show something else each time.

    Args:
        guide: A Pyro guide.
        example: A batch, which some guides are run on.
        sites: Weight sites by name.
        draw: One joint draw of the weights from any guide, for those that cannot draw many at once.

    Returns:
        Probabilities by site name, those that are known; None where none is.
    """
    collapsed = {name: site for name, site in sites.items() if is_collapsed(site.prior)}
    full = [n for n, s in sites.items() if isinstance(s.prior, ThreeLayer) and n not in collapsed]
    inits = [sites[name].init for name in (*collapsed, *full)]
    devices = {init.device for init in inits if init is not None and init.is_cuda}
    probs: Weights = {}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        torch.manual_seed(0)
        if full:
            probs |= _of_factors(guide) or _of_support_sites(guide, example, full)
        if collapsed:
            draws = _draws(guide, example, collapsed, draw)
            probs |= collapsed_support_probs(collapsed, draws) or {}
    return probs or None


def _of_factors(guide: Any) -> Weights:
    """Probabilities by name of weights whose factor has them as parameters."""
    if isinstance(guide, TurboGuide):
        return guide.support_probs()
    factors = list(guide) if isinstance(guide, SiteGuide) else []
    return {
        factor.name: factor.support_log_odds.sigmoid()
        for factor in factors
        if isinstance(factor, RelaxedFactor)
    }


def _of_support_sites(guide: Any, example: Batch, names: Iterable[str]) -> Weights:
    """Means of a guide's support sites by name of their weights, those that there are."""
    totals: Weights = {}
    for _ in range(SUPPORT_DRAWS):
        with own_parameters(guide):
            nodes: Any = poutine.trace(guide).get_trace(*example).nodes
        present = [name for name in names if f"{name}_support" in nodes]
        for name in present:
            mean = _mean(nodes[f"{name}_support"])
            totals[name] = totals[name] + mean if name in totals else mean
    return {name: total / SUPPORT_DRAWS for name, total in totals.items()}


def _mean(node: Any) -> Tensor:
    """Mean of a support site given the sites before it, or one draw of zeros and ones."""
    value: Tensor = node["value"]
    try:
        mean: Tensor = node["fn"].mean
    except (NotImplementedError, AttributeError):
        return (value > 0.5).to(value)
    return mean.expand_as(value)


def _draws(
    guide: Any, example: Batch, sites: Sites, draw: Callable[[], Weights]
) -> Iterator[Weights]:
    """Draws in chunks, weights [*draws, *weight] by name; of a point, the point."""
    size = sum(site.shape.numel() for site in sites.values())
    chunk = max(1, min(SUPPORT_DRAWS, _TOGETHER // size))
    counts = [min(chunk, SUPPORT_DRAWS - done) for done in range(0, SUPPORT_DRAWS, chunk)]
    moments = _normal_weights(guide, sites)
    if moments is not None:
        for count in counts:
            yield {name: _normal(mean, scale, count) for name, (mean, scale) in moments.items()}
    elif isinstance(guide, autoguides.AutoContinuous):
        with pyro.settings.context(module_local_params=True):
            posterior: Any = guide.get_posterior(*example)
        for count in counts:
            unpacked = guide._unpack_latent(posterior.sample((count,)))
            # a collapsed site is real: its unconstrained value is its value
            yield {site["name"]: value for site, value in unpacked if site["name"] in sites}
    else:
        for _ in range(1 if isinstance(guide, autoguides.AutoDelta) else SINGLE_DRAWS):
            yield draw()


def _normal(mean: Tensor, scale: Tensor, count: int) -> Tensor:
    return torch.addcmul(mean, scale, torch.randn(count, *mean.shape).to(mean))


def _normal_weights(guide: Any, sites: Sites) -> dict[str, tuple[Tensor, Tensor]] | None:
    """Means and scales by name, where the guide's weights are independent and normal."""
    if isinstance(guide, autoguides.AutoNormal):
        return {name: guide._get_loc_and_scale(name) for name in sites}
    if isinstance(guide, SiteGuide):
        return {factor.name: (factor.loc, factor.scale) for factor in guide if factor.name in sites}
    return None
