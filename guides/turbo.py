"""The guide of Turbo-VBI, q(w) q(precision | support) q(support), for stock `pyro.infer.SVI`.

Stock SVI trains the supports by score-function gradients, which is slow: use it to compare, and
`ptv.TurboVBI` to fit.
"""

from __future__ import annotations

import pyro_turbovbi as ptv
from pyro_turbovbi.families import TurboGuide


def build(model: ptv.BayesianNet) -> TurboGuide:
    """The guide of a lifted net under `priors.ThreeLayer` (or `priors.Normal`)."""
    return TurboGuide(model.sites)
