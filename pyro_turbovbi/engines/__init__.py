"""Engines of `ptv.fit`: Turbo-VBI and stock Pyro algorithms behind one protocol."""

from pyro_turbovbi.engines.map import MAP
from pyro_turbovbi.engines.nuts import NUTS, MCMCDiagnostics, MCMCPosterior
from pyro_turbovbi.engines.protocol import Engine, Plan
from pyro_turbovbi.engines.svi import AUTOGUIDES, SVI
from pyro_turbovbi.engines.turbo import (
    MemoryReport,
    ModelReduction,
    SpikeAnnealing,
    Turbo,
    TurboSettings,
    TurboVBI,
    memory_report,
)

__all__ = [
    "AUTOGUIDES",
    "MAP",
    "NUTS",
    "SVI",
    "Engine",
    "MCMCDiagnostics",
    "MCMCPosterior",
    "MemoryReport",
    "ModelReduction",
    "Plan",
    "SpikeAnnealing",
    "Turbo",
    "TurboSettings",
    "TurboVBI",
    "memory_report",
]
