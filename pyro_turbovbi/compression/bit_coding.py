"""Adaptive arithmetic coding of binary decisions, the one primitive of the compact file.

Everything in a compact file is spelled out in binary decisions, each under a context. A context's
probability is the Krichevsky-Trofimov estimate from the decisions that it has seen, rounded to 16
bits by integer arithmetic: nothing about the statistics is stored, and the two sides agree bit for
bit on every machine. `constriction` (Bamler, "Understanding entropy coding with asymmetric numeral
systems", arXiv:2201.01741) provides the range coder.

Encoder, decoder and meter share one interface, so that what is written about a tensor is written
once: the same function encodes when it is given the truth, and decodes when it is not.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pyro_turbovbi.errors import UnsupportedError

Bits: TypeAlias = npt.NDArray[np.uint8]
Indices: TypeAlias = npt.NDArray[np.int64]

PROBABILITY_BITS = 16
"""Probabilities are multiples of 2^-16."""
_ONE = 1 << PROBABILITY_BITS
_FIRST_BATCH = 4
_GROWTH = 8
_LARGEST_BATCH = 1 << 16


class AdaptiveModel:
    """Probabilities of a one under every context, learned from the decisions themselves.

    The estimate is (ones + 1/2) / (decisions + 1), R. Krichevsky and V. Trofimov, "The performance
    of universal encoding", IEEE Trans. Inf. Theory 27 (1981): it costs about log2(n) / 2 bits a
    context more than the best fixed probability would.

    Args:
        contexts: Number of contexts.
    """

    def __init__(self, contexts: int) -> None:
        self.ones = np.zeros(contexts, np.int64)
        self.decisions = np.zeros(contexts, np.int64)

    def probabilities(self, contexts: Indices) -> Indices:
        """P(one) for each of some decisions, as a multiple of 2^-16 in [1, 2^16 - 1]."""
        table = ((2 * self.ones + 1) << PROBABILITY_BITS) // (2 * self.decisions + 2)
        return table.clip(1, _ONE - 1)[contexts]

    def update(self, contexts: Indices, bits: Bits) -> None:
        """Learns from decisions."""
        size = len(self.decisions)
        self.decisions += np.bincount(contexts, minlength=size)
        self.ones += np.bincount(contexts[bits != 0], minlength=size)


class BitCoder(ABC):
    """One pass over the decisions of a file, in writing or in reading.

    Attributes:
        spent: Bits of all decisions so far: the sum of -log2 P(decision).
    """

    def __init__(self) -> None:
        self.spent = 0.0

    def batch(self, model: AdaptiveModel, contexts: Indices, bits: Bits | None = None) -> Bits:
        """Codes decisions at once: with the probabilities before them, which then learn from them.

        Args:
            model: The probabilities.
            contexts: The context of every decision, shape [decisions].
            bits: The decisions, for an encoder or a meter; a decoder does not look at them.

        Returns:
            The decisions, shape [decisions].
        """
        coded = self._spend(model.probabilities(contexts), bits)
        model.update(contexts, coded)
        return coded

    def run(self, model: AdaptiveModel, context: int, count: int, bits: Bits | None = None) -> Bits:
        """Codes decisions under one context, in batches that grow with what it has seen.

        Args:
            model: The probabilities.
            context: The context of all of them.
            count: Number of decisions.
            bits: The decisions, shape [count]; a decoder does not look at them.

        Returns:
            The decisions, shape [count].
        """
        coded = np.zeros(count, np.uint8)
        start = 0
        while start < count:
            seen = int(model.decisions[context])
            size = min(count - start, _LARGEST_BATCH, _FIRST_BATCH + seen // _GROWTH)
            part = slice(start, start + size)
            contexts = np.full(size, context, np.int64)
            coded[part] = self.batch(model, contexts, None if bits is None else bits[part])
            start += size
        return coded

    def literal(self, count: int, bits: Bits | None = None) -> Bits:
        """Codes decisions that are as good as coin flips, one bit each."""
        return self._spend(np.full(count, _ONE // 2, np.int64), bits)

    def _spend(self, ones: Indices, bits: Bits | None) -> Bits:
        coded = self._code(ones, bits)
        chosen = np.where(coded != 0, ones, _ONE - ones)
        self.spent += PROBABILITY_BITS * len(chosen) - float(np.log2(chosen).sum())
        return coded

    @abstractmethod
    def _code(self, ones: Indices, bits: Bits | None) -> Bits:
        """Codes decisions with P(one) = `ones` / 2^16."""


class Meter(BitCoder):
    """Counts the bits of given decisions and writes nothing."""

    def _code(self, ones: Indices, bits: Bits | None) -> Bits:
        return _given(bits)


class Encoder(BitCoder):
    """Writes given decisions.

    Raises:
        UnsupportedError: If the package `constriction` is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        stream = _constriction().stream
        self._coder: Any = stream.queue.RangeEncoder()
        self._family: Any = stream.model.Bernoulli(perfect=False)

    def _code(self, ones: Indices, bits: Bits | None) -> Bits:
        self._coder.encode(_given(bits).astype(np.int32), self._family, ones / _ONE)
        return _given(bits)

    def finish(self) -> bytes:
        """The bytes of all decisions: little-endian 32-bit words."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


class Decoder(BitCoder):
    """Reads decisions back. From bytes that no encoder wrote it reads arbitrary ones.

    Args:
        content: What `Encoder.finish` returned.

    Raises:
        UnsupportedError: If the package `constriction` is not installed.
        ValueError: If the bytes are no whole words.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        stream = _constriction().stream
        words = np.frombuffer(content, "<u4").astype(np.uint32)
        self._coder: Any = stream.queue.RangeDecoder(words)
        self._family: Any = stream.model.Bernoulli(perfect=False)

    def _code(self, ones: Indices, bits: Bits | None) -> Bits:
        decoded: Bits = self._coder.decode(self._family, ones / _ONE).astype(np.uint8)
        return decoded

    @property
    def exhausted(self) -> bool:
        """Whether the bytes can end here."""
        return bool(self._coder.maybe_exhausted())


def _given(bits: Bits | None) -> Bits:
    assert bits is not None, "only a decoder works without the decisions"
    return bits


def _constriction() -> Any:
    try:
        return importlib.import_module("constriction")
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "compact files need a package that is not installed",
            given="constriction",
            accepted='an installation with the extra "compress": '
            'pip install "pyro-turbovbi[compress]"; or save with coding="plain"',
        ) from error
