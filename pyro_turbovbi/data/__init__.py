"""Data sets of the examples, recovery with known truth, and files of your own.

Every loader returns plain tensors and takes a seed; none downloads anything.
"""

from pyro_turbovbi.batches import TransformedTensors
from pyro_turbovbi.data.augment import augment
from pyro_turbovbi.data.cifar import cifar10
from pyro_turbovbi.data.digits import digits
from pyro_turbovbi.data.files import csv_file, image_folder, npz_file
from pyro_turbovbi.data.mnist import mnist
from pyro_turbovbi.data.recovery import GatedRecovery, Recovery, gated_recovery, recovery
from pyro_turbovbi.data.splits import Splits, TensorPair
from pyro_turbovbi.data.uci import uci

__all__ = [
    "GatedRecovery",
    "Recovery",
    "Splits",
    "TensorPair",
    "TransformedTensors",
    "augment",
    "cifar10",
    "csv_file",
    "digits",
    "gated_recovery",
    "image_folder",
    "mnist",
    "npz_file",
    "recovery",
    "uci",
]
