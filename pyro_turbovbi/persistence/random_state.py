"""The random numbers of a training: where they come from, stored and taken up again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from pyro_turbovbi.batches import Batches
from pyro_turbovbi.persistence.trees import Tree, split
from pyro_turbovbi.training import DataDigest


@dataclass(frozen=True)
class RandomSources:
    """Everything that a training draws from.

    Attributes:
        device: Where it runs: beside the CPU's generator, that of this device.
        generators: The data's own generators.
    """

    device: torch.device
    generators: Sequence[torch.Generator] = ()

    def state(self) -> Tree:
        """The present state of all of them."""
        cuda = self.device.type == "cuda"
        return {
            "cpu": torch.get_rng_state(),
            "device": torch.cuda.get_rng_state(self.device) if cuda else None,
            "generators": [generator.get_state() for generator in self.generators],
        }

    def restore(self, saved: Tree) -> None:
        """Go back to what `state` gave."""
        torch.set_rng_state(saved["cpu"])
        if saved["device"] is not None:
            torch.cuda.set_rng_state(saved["device"], self.device)
        for generator, state in zip(self.generators, saved["generators"], strict=True):
            generator.set_state(state)

    def digest(self) -> str:
        """The present state of all of them in short, in hexadecimal."""
        digest = hashlib.blake2b(digest_size=8)
        for tensor in split(self.state())[1].values():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()

    def repeats(self, batches: Batches) -> bool:
        """Whether data comes the same way again after `restore`, as far as its first batch tells.

        It does not where an order or a transform draws from somewhere else, such as NumPy. The
        sources are left as they were.
        """
        before, digests = self.state(), []
        for _ in range(2):
            digest = DataDigest()
            for batch in islice(batches, 1):
                digest.count(batch)
            digests.append(digest.value)
            self.restore(before)
        return digests[0] == digests[1]
