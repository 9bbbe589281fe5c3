"""Data sets of the examples, recovery with known truth, and files of your own.

Every loader returns plain tensors and takes a seed. None downloads anything: `download` does, where
it is asked to.
"""

from pyro_turbovbi.batches import TransformedTensors
from pyro_turbovbi.data.augment import augment
from pyro_turbovbi.data.cifar import cifar10, cifar100
from pyro_turbovbi.data.diabetes import diabetes
from pyro_turbovbi.data.digits import digits
from pyro_turbovbi.data.downloads import download
from pyro_turbovbi.data.files import image_folder, npz_file
from pyro_turbovbi.data.form import DataForm
from pyro_turbovbi.data.mnist import fashion_mnist, mnist
from pyro_turbovbi.data.recovery import GatedRecovery, Recovery, gated_recovery, recovery
from pyro_turbovbi.data.splits import Splits, TensorPair
from pyro_turbovbi.data.tables import csv_file, parquet_file
from pyro_turbovbi.data.uci import uci

__all__ = [
    "DataForm",
    "GatedRecovery",
    "Recovery",
    "Splits",
    "TensorPair",
    "TransformedTensors",
    "augment",
    "cifar10",
    "cifar100",
    "csv_file",
    "diabetes",
    "digits",
    "download",
    "fashion_mnist",
    "gated_recovery",
    "image_folder",
    "mnist",
    "npz_file",
    "parquet_file",
    "recovery",
    "uci",
]
