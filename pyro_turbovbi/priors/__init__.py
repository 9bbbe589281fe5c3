"""Weight priors: each a small Pyro program, declared without the weight's shape."""

from pyro_turbovbi.priors.base import (
    Moments,
    NonCentred,
    Prior,
    SubstituteWeights,
    WeightSite,
    discover_weights,
)
from pyro_turbovbi.priors.group import GroupHorseshoe, GroupLasso, GroupNormalJeffreys
from pyro_turbovbi.priors.heavy_tailed import Laplace, StudentT
from pyro_turbovbi.priors.normal import Normal
from pyro_turbovbi.priors.selection import BySite, by_site
from pyro_turbovbi.priors.shrinkage import Horseshoe, LogUniform, SpikeSlab
from pyro_turbovbi.priors.spec import from_spec, to_spec
from pyro_turbovbi.priors.three_layer import Components, GammaParameters, ThreeLayer
from pyro_turbovbi.priors.unit_gates import Gates, WeightGates, unit_gates

__all__ = [
    "BySite",
    "Components",
    "GammaParameters",
    "Gates",
    "GroupHorseshoe",
    "GroupLasso",
    "GroupNormalJeffreys",
    "Horseshoe",
    "Laplace",
    "LogUniform",
    "Moments",
    "NonCentred",
    "Normal",
    "Prior",
    "SpikeSlab",
    "StudentT",
    "SubstituteWeights",
    "ThreeLayer",
    "WeightGates",
    "WeightSite",
    "by_site",
    "discover_weights",
    "from_spec",
    "to_spec",
    "unit_gates",
]
