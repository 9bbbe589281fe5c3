"""The supports of `priors.ThreeLayer` by straight-through gradients, for stock `pyro.infer.SVI`.

ELBO estimates are exact ones of the discrete family; gradients of the supports are biased by a
known positive factor (Maddison and others 2017, Jang and others 2017), and have far less variance
than score-function ones.
"""

from __future__ import annotations

import pyro_turbovbi as ptv
from pyro_turbovbi.families import RelaxedGuide


def build(model: ptv.BayesianNet, temperature: float = 0.5) -> RelaxedGuide:
    """The guide of a lifted net under ``priors.ThreeLayer(...)``, supports as sites.

    Args:
        model: The lifted net.
        temperature: Lower: less bias, more variance.
    """
    return RelaxedGuide(model.sites, temperature=temperature)
