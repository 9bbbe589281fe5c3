"""From a network and its support masks to a physically smaller network.

This package takes plain networks and masks: it knows nothing of how they were trained.
"""

from pyro_turbovbi.compression.acceleration import Accelerated, Acceleration, accelerate
from pyro_turbovbi.compression.artifact import load, load_posterior
from pyro_turbovbi.compression.compressed import Compressed, compress
from pyro_turbovbi.compression.fine_tuning import FineTune, fine_tune
from pyro_turbovbi.compression.masking import masked
from pyro_turbovbi.compression.order import Reordered, reorder
from pyro_turbovbi.compression.quantisation import Quantisation
from pyro_turbovbi.compression.regularity import Regularity, regularity
from pyro_turbovbi.compression.report import CompressionReport, FineTuning
from pyro_turbovbi.compression.shrink import shrink
from pyro_turbovbi.compression.uncertainty import LoadedPosterior

__all__ = [
    "Accelerated",
    "Acceleration",
    "Compressed",
    "CompressionReport",
    "FineTune",
    "FineTuning",
    "LoadedPosterior",
    "Quantisation",
    "Regularity",
    "Reordered",
    "accelerate",
    "compress",
    "fine_tune",
    "load",
    "load_posterior",
    "masked",
    "regularity",
    "reorder",
    "shrink",
]
