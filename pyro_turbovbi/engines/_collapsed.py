"""Support probabilities of collapsed three-layer priors from a fitted guide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro.infer import autoguide as autoguides
from torch import Tensor

from pyro_turbovbi.batches import Batch
from pyro_turbovbi.engines._latents import Sites
from pyro_turbovbi.posterior import Weights
from pyro_turbovbi.priors.three_layer import collapsed_support_probs, is_collapsed

#: Draws of the weights over which P(s = 1 | w) is averaged, and of guides that have to be run for
#: every one of them.
SUPPORT_DRAWS, SINGLE_DRAWS = 64, 16
_TOGETHER = 2**20  # weights that are drawn at once


def guide_support_probs(
    guide: Any, example: Batch, sites: Sites, draw: Callable[[], Weights]
) -> Weights | None:
    """P(s = 1 | data) of weights under collapsed priors, from draws of a guide.

    The draws are always the same ones and leave the random state as it was: looking at a posterior
    must neither change what is drawn next nor show something else each time.

    Args:
        guide: A Pyro guide.
        example: A batch, which some guides are run on.
        sites: Weight sites by name.
        draw: One joint draw of the weights from any guide, for those that cannot draw many at once.

    Returns:
        Probabilities by site name; None where no prior is collapsed.
    """
    collapsed = {name: site for name, site in sites.items() if is_collapsed(site.prior)}
    if not collapsed:
        return None
    devices = {s.init.device for s in collapsed.values() if s.init is not None and s.init.is_cuda}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        torch.manual_seed(0)
        return collapsed_support_probs(collapsed, _draws(guide, example, collapsed, draw))


def _draws(
    guide: Any, example: Batch, sites: Sites, draw: Callable[[], Weights]
) -> Iterator[Weights]:
    """Draws in chunks, weights [*draws, *weight] by name; of a point, the point."""
    size = sum(site.shape.numel() for site in sites.values())
    chunk = max(1, min(SUPPORT_DRAWS, _TOGETHER // size))
    counts = [min(chunk, SUPPORT_DRAWS - done) for done in range(0, SUPPORT_DRAWS, chunk)]
    if isinstance(guide, autoguides.AutoNormal):
        moments = {name: guide._get_loc_and_scale(name) for name in sites}
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
