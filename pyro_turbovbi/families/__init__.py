"""Variational families that the engines and stock SVI share."""

from pyro_turbovbi.families.enumerated import EnumeratedFactor, EnumeratedGuide
from pyro_turbovbi.families.factors import GateFactor, NormalFactor, ThreeLayerFactor, make_factor
from pyro_turbovbi.families.guide import TurboGuide, turbo_guide
from pyro_turbovbi.families.relaxed import RelaxedFactor, RelaxedGuide
from pyro_turbovbi.families.site_guide import SiteGuide

__all__ = [
    "EnumeratedFactor",
    "EnumeratedGuide",
    "GateFactor",
    "NormalFactor",
    "RelaxedFactor",
    "RelaxedGuide",
    "SiteGuide",
    "ThreeLayerFactor",
    "TurboGuide",
    "make_factor",
    "turbo_guide",
]
