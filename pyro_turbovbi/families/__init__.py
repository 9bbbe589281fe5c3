"""Variational families that the engines and stock SVI share."""

from pyro_turbovbi.families.factors import NormalFactor, ThreeLayerFactor, make_factor
from pyro_turbovbi.families.guide import TurboGuide

__all__ = ["NormalFactor", "ThreeLayerFactor", "TurboGuide", "make_factor"]
