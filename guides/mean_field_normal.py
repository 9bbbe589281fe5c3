"""Independent normal weights by Pyro's `AutoNormal`, started at the net's own weights.

For continuous priors such as `priors.Normal`.
"""

from __future__ import annotations

from pyro.infer.autoguide import AutoNormal, init_to_value

import pyro_turbovbi as ptv


def build(model: ptv.BayesianNet) -> AutoNormal:
    """Small start scales, since a net is not to forget its start weights in the first step."""
    start = {name: site.init for name, site in model.sites.items()}
    return AutoNormal(model, init_loc_fn=init_to_value(values=start), init_scale=0.02)
