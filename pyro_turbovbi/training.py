"""How a fit came about: what has to agree before two fits can be compared like with like."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_turbovbi.batches import Batch

_DIGITS = 16  # hexadecimal, 64 bits: two data sets of a comparison do not meet by accident


@dataclass(frozen=True)
class Training:
    """The circumstances of a training.

    Attributes:
        epochs: Passes over the data that were done.
        batch_size: Data points of the first batch: a step's, and all where the engine needs all.
        num_data: Data points of the data set.
        seed: Seed of everything random.
        data: Digest of the data points that were read before training, whatever their order.
        start: Digest of the net's parameters and buffers before training.
        kl_weight: Weight of the KL term in what was maximised; 1 is the ELBO.
    """

    epochs: int
    batch_size: int
    num_data: int
    seed: int
    data: str
    start: str
    kl_weight: float = 1.0


class DataDigest:
    """Digest of a data set that does not depend on the order of its points.

    Two data sets of the same points have the same digest. Where a loader changes its points at
    random, a pass is what counts, and passes under the same seed agree.

    Attributes:
        points: Number of points counted so far.
        smallest: The batch of fewest points among them.
    """

    def __init__(self) -> None:
        self.points = 0
        self.smallest: Batch | None = None
        self._sum = 0

    def reading(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; each is counted once its reader, who may refuse it, wants the next."""
        for batch in batches:
            yield batch
            self.count(batch)

    def count(self, batch: Batch) -> None:
        """Count the points of a batch, whose tensors have equally many rows."""
        x = [batch.x] if isinstance(batch.x, Tensor) else [v for _, v in sorted(batch.x.items())]
        for row in zip(*map(_rows, [*x, batch.y]), strict=True):
            digest = hashlib.blake2b(b"".join(row), digest_size=_DIGITS // 2).digest()
            # A sum, unlike a hash of hashes, is the same in every order.
            self._sum += int.from_bytes(digest, "big")
        self.points += len(batch.y)
        if self.smallest is None or len(batch.y) < len(self.smallest.y):
            self.smallest = batch

    @property
    def value(self) -> str:
        """The digest of all points counted so far, in hexadecimal."""
        return f"{self._sum % 16**_DIGITS:0{_DIGITS}x}"


def start_digest(net: nn.Module) -> str:
    """Digest of a net's parameters and buffers, names included, in hexadecimal."""
    digest = hashlib.blake2b(digest_size=_DIGITS // 2)
    for name, value in net.state_dict().items():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _rows(values: Tensor) -> list[bytes]:
    """The bytes of every row."""
    data = _bytes(values)
    width = len(data) // len(values)
    return [data[i * width : (i + 1) * width] for i in range(len(values))]


def _bytes(values: Tensor) -> bytes:
    flat = values.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


__all__ = ["DataDigest", "Training", "start_digest"]
