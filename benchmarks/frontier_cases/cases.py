"""What is compressed: networks, their data, and the plain training that every method starts from.

Another case is one more entry in `CASES`: a plain network and a loader of its data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.common import locked, plain_epochs
from models import lenet_5, lenet_300_100, resnet_20
from pyro_turbovbi import data
from pyro_turbovbi.data import Splits, TensorPair

CACHE = Path(__file__).parents[1] / "cache"
#: Training images that are held out while something is chosen.
VALIDATION = 5000

Stage = Literal["final", "tuning"]


@dataclass(frozen=True)
class Case:
    """A network on a data set.

    Attributes:
        title: As tables call it.
        build: Makes the plain network, with start weights from torch's generator.
        load: Loads the data with so many validation points.
        densities: Shares of weights at which magnitude pruning is measured.
        shares: Shares of parameters at which structured pruning is measured.
        compared_at: Test error in percent at which methods' smallest networks are compared.
        target: Validation error in percent that a configuration may have to be chosen.
        pretraining: Epochs of plain Adam before any method.
        epochs: Epochs of every method.
        batch: Data points a step.
    """

    title: str
    build: Callable[[], nn.Module]
    load: Callable[[int], Splits]
    densities: tuple[float, ...]
    shares: tuple[float, ...]
    compared_at: float
    target: float
    pretraining: int = 3
    epochs: int = 40
    batch: int = 128


def _mnist(validation: int, *, flat: bool) -> Splits:
    return data.mnist(validation=validation, flat=flat)


def _cifar(validation: int, *, points: int) -> Splits:
    """Evenly spaced training images, without augmentation; all that are held out or tested."""
    splits = data.cifar10(validation=validation)
    x, y = splits.train
    rows = slice(None, None, max(1, len(x) // points))
    return replace(splits, train=TensorPair(x[rows], y[rows]))


def _small_cnn() -> nn.Module:
    """Three convolutions and two linear layers, 122,570 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


CASES: dict[str, Case] = {
    "lenet_300_100": Case(
        "LeNet-300-100 on MNIST",
        lambda: lenet_300_100.build().net,
        partial(_mnist, flat=True),
        densities=(0.05, 0.03, 0.02, 0.014, 0.01, 0.007, 0.005),
        shares=(0.5, 0.2, 0.1, 0.05),
        compared_at=2.0,
        target=2.4,
    ),
    "lenet_5": Case(
        "LeNet-5-Caffe on MNIST",
        lambda: lenet_5.build().net,
        partial(_mnist, flat=False),
        densities=(0.02, 0.01, 0.007, 0.005, 0.0035, 0.0025),
        shares=(0.1, 0.05, 0.02, 0.01),
        compared_at=1.0,
        target=1.0,
        epochs=20,
    ),
    "small_cnn": Case(
        "A small convolutional net on 20,000 images of CIFAR-10",
        _small_cnn,
        partial(_cifar, points=20_000),
        densities=(0.2, 0.1, 0.05),
        shares=(0.2, 0.1),
        compared_at=34.0,
        target=34.0,
        pretraining=5,
        epochs=20,
        batch=64,
    ),
    "resnet_20": Case(
        "ResNet-20 at half its width on 10,000 images of CIFAR-10",
        lambda: resnet_20.network(0.5),
        partial(_cifar, points=10_000),
        densities=(0.2, 0.1, 0.05),
        shares=(0.2, 0.1),
        compared_at=40.0,
        target=40.0,
        pretraining=10,
        epochs=30,
        batch=64,
    ),
}


@lru_cache(maxsize=2)
def parts(name: str, stage: Stage) -> tuple[TensorPair, TensorPair]:
    """Data of a case: what is trained on, and what errors are measured on.

    The final stage trains on all training images and measures on test images; tuning measures on
    images that are held out of the training set, and never reads a test image.
    """
    splits = CASES[name].load(VALIDATION if stage == "tuning" else 0)
    return splits.train, splits.validation if stage == "tuning" else splits.test


def start_file(name: str, seed: int, stage: Stage) -> Path:
    """Where `pretrained` keeps the network."""
    return CACHE / "starts" / f"{name}-{stage}-{seed}.safetensors"


def pretrained(name: str, seed: int, stage: Stage) -> nn.Module:
    """The network that all methods start from, trained once and kept.

    Always trained on the CPU, so that it is the same wherever the methods run.
    """
    case = CASES[name]
    path = start_file(name, seed, stage)
    with locked(path), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = case.build()
        if path.exists():
            net.load_state_dict(load_file(path))
            return net
        plain_epochs(net, parts(name, stage)[0], case.pretraining, case.batch)
        part = path.with_suffix(".part")
        save_file(net.state_dict(), part)
        part.replace(path)
    return net
