"""A normal posterior with a diagonal-plus-low-rank covariance over all weights together.

For continuous priors on small nets: memory is (rank + 2) numbers per weight.
"""

from __future__ import annotations

from pyro.infer.autoguide import AutoLowRankMultivariateNormal, init_to_value

import pyro_turbovbi as ptv


def build(model: ptv.BayesianNet, rank: int = 5) -> AutoLowRankMultivariateNormal:
    """The guide of a lifted net.

    Args:
        model: The lifted net.
        rank: Number of directions in which weights may vary together.
    """
    start = {name: site.init for name, site in model.sites.items()}
    initial = init_to_value(values=start)
    return AutoLowRankMultivariateNormal(model, init_loc_fn=initial, init_scale=0.02, rank=rank)
