"""Variational families that the engines and stock SVI share."""

from pyro_turbovbi.families.factors import GateFactor, NormalFactor, ThreeLayerFactor, make_factor
from pyro_turbovbi.families.guide import TurboGuide, turbo_guide

__all__ = [
    "GateFactor",
    "NormalFactor",
    "ThreeLayerFactor",
    "TurboGuide",
    "make_factor",
    "turbo_guide",
]
