"""Turbo-VBI: Module A (variational Bayes), Module B (message passing), and their engine."""

from pyro_turbovbi.engines.turbo.engine import Turbo
from pyro_turbovbi.engines.turbo.memory import MemoryReport, memory_report
from pyro_turbovbi.engines.turbo.reduction import ModelReduction
from pyro_turbovbi.engines.turbo.settings import SpikeAnnealing, TurboSettings
from pyro_turbovbi.engines.turbo.vbi import TurboVBI

__all__ = [
    "MemoryReport",
    "ModelReduction",
    "SpikeAnnealing",
    "Turbo",
    "TurboSettings",
    "TurboVBI",
    "memory_report",
]
