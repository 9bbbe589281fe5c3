"""Files: how large they are, and how often the network errs that is read back from them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from torch import nn

from benchmarks.common import error_percent
from benchmarks.frontier_cases.measure import QUANTISED_ON, TOLERANCE
from benchmarks.take_home_cases import int8
from pyro_turbovbi.compression import Compressed, load, load_posterior
from pyro_turbovbi.data import TensorPair
from pyro_turbovbi.errors import VerificationError

#: By how much the mean cross entropy of the training images that decide may grow by rounding, nats.
TOLERANCES = (TOLERANCE, 0.01)

PLAIN, UNCERTAIN = "exact", "with uncertainty"
TORCHAO = "torchao"


class Form(NamedTuple):
    """A way to write a network to a file, and to read it back.

    Attributes:
        name: As the tables call it.
        write: Writes it to a path.
        read: Reads it from there.
    """

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], nn.Module]


def files_of(
    small: Compressed, train: TensorPair, held_out: TensorPair
) -> dict[str, dict[str, float]]:
    """Bytes on disk and the error of what is read back, by the form of the file.

    Args:
        small: The cut network.
        train: Training data; the first of them decide how far weights are rounded.
        held_out: What errors are measured on.

    Returns:
        `bytes` and `error_percent` by form.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, form in enumerate(forms_of(small, train)):
            path = Path(folder) / str(number)
            form.write(path)
            module = form.read(path)
            found[form.name] = {
                "bytes": path.stat().st_size,
                "error_percent": error_percent(module, held_out),
            }
    return found


def forms_of(small: Compressed, train: TensorPair) -> Iterator[Form]:
    """The forms that a network can be written in.

    Exact; rounded within each tolerance, and within the first with standard deviations; without
    these rounded within the first alone; 8-bit integers by torchao, if it is installed. A network
    in which nothing is left that could be rounded has no rounded form.

    Args:
        small: The cut network.
        train: Training data.
    """
    yield Form(PLAIN, small.save, load)
    points = (train.x[:QUANTISED_ON], train.y[:QUANTISED_ON])
    for tolerance in TOLERANCES if small.scales else TOLERANCES[:1]:
        try:
            rounded = small.quantise(points, tolerance=tolerance)
        except VerificationError:
            continue
        yield Form(rounded_within(tolerance), rounded.save, load)
        if small.scales and tolerance == TOLERANCES[0]:
            yield Form(UNCERTAIN, _with_uncertainty(rounded), lambda p: load_posterior(p).module)
    if int8.available():
        for kind in int8.KINDS:
            integers = int8.quantised(small.module, kind)
            yield Form(f"{TORCHAO}, {kind}", _int8_writer(integers), _int8_reader(small.module))


def rounded_within(tolerance: float) -> str:
    """Name of the form.

    Args:
        tolerance: In nats.
    """
    return f"rounded, {tolerance:g} nats"


def _with_uncertainty(rounded: Compressed) -> Callable[[Path], int]:
    return lambda path: rounded.save(path, uncertainty=True)


def _int8_writer(net: nn.Module) -> Callable[[Path], None]:
    return lambda path: int8.save(net, path)


def _int8_reader(like: nn.Module) -> Callable[[Path], nn.Module]:
    return lambda path: int8.load(path, like)
