"""Engines of `ptv.fit`: Turbo-VBI and stock Pyro algorithms behind one protocol."""

from pyro_turbovbi.engines.map import MAP
from pyro_turbovbi.engines.nuts import NUTS, MCMCDiagnostics, MCMCPosterior
from pyro_turbovbi.engines.protocol import Engine, Plan
from pyro_turbovbi.engines.svi import AUTOGUIDES, SVI
from pyro_turbovbi.engines.turbo import (
    ModelReduction,
    SpikeAnnealing,
    Turbo,
    TurboSettings,
    TurboVBI,
)

__all__ = [
    "AUTOGUIDES",
    "MAP",
    "NUTS",
    "SVI",
    "Engine",
    "MCMCDiagnostics",
    "MCMCPosterior",
    "ModelReduction",
    "Plan",
    "SpikeAnnealing",
    "Turbo",
    "TurboSettings",
    "TurboVBI",
]
