"""Weight priors: each a small Pyro program, declared without the weight's shape."""

from pyro_turbovbi.priors.base import Prior, SubstituteWeights, WeightSite, discover_weights
from pyro_turbovbi.priors.normal import Normal
from pyro_turbovbi.priors.selection import BySite, by_site
from pyro_turbovbi.priors.three_layer import Components, GammaParameters, ThreeLayer

__all__ = [
    "BySite",
    "Components",
    "GammaParameters",
    "Normal",
    "Prior",
    "SubstituteWeights",
    "ThreeLayer",
    "WeightSite",
    "by_site",
    "discover_weights",
]
