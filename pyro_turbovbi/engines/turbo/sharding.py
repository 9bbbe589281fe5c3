"""Message passing in several processes: each does some of the weights, and tells the others.

Supports of different weights do not know of each other (those behind shared gates do, and are not
divided), so that a weight's full exchange between Module A and Module B is a piece of work of its
own. The state that comes out of it is what a checkpoint would hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pyro_turbovbi.distributed import World
from pyro_turbovbi.engines.turbo.site import SiteState, SpikeSlab
from pyro_turbovbi.errors import TurboVBIError
from pyro_turbovbi.families.factors import NormalFactor, ThreeLayerFactor
from pyro_turbovbi.persistence.trees import Tree


@torch.no_grad()
def exchange(
    world: World,
    sites: Mapping[str, SiteState],
    factors: Iterable[NormalFactor],
    second_moments: Mapping[str, Tensor],
) -> None:
    """A full exchange at every site that has a Module B of its own.

    Args:
        world: The processes.
        sites: Engine states by site name; the same in all processes, before and afterwards.
        factors: Their variational factors.
        second_moments: E[w^2] by site name.

    Raises:
        NumericalError: in all processes, if log-likelihood ratios are not finite in one of them.
        DistributedError: if another process is gone.
    """
    held = {
        factor.name: (site, factor)
        for factor in factors
        if isinstance(site := sites[factor.name], SpikeSlab)
        and isinstance(factor, ThreeLayerFactor)
    }
    owners = world.owners({name: factor.loc.numel() for name, (_, factor) in held.items()})
    own: dict[str, Tree] = {}
    failed: TurboVBIError | None = None
    try:
        for name, (site, factor) in held.items():
            if owners[name] == world.rank:
                site.exchange(second_moments[name])
                own[name] = [site.state_dict(), factor.support_log_odds]
    except TurboVBIError as error:
        failed = error
    world.raise_first(failed)
    for rank in sorted(set(owners.values())):
        for name, (state, log_odds) in world.told(own, rank).items():
            if rank != world.rank:
                site, factor = held[name]
                site.load_state_dict(state)
                factor.support_log_odds.copy_(log_odds)


__all__ = ["exchange"]
