"""Weights and precisions under `priors.ThreeLayer(collapse="support")`: no discrete site is left.

The model sums the supports out by message passing. Every gradient is pathwise and unbiased; for
spikes that are not much narrower than the posterior.
"""

from __future__ import annotations

import pyro_turbovbi as ptv
from pyro_turbovbi.families import EnumeratedGuide


def build(model: ptv.BayesianNet) -> EnumeratedGuide:
    """The guide of a lifted net under ``priors.ThreeLayer(..., collapse="support")``."""
    return EnumeratedGuide(model.sites)
