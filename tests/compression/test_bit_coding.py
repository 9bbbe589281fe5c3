"""Binary decisions: exact round trips, length against the entropy, the textbook's estimator."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest

from pyro_turbovbi.compression.bit_coding import AdaptiveModel, Decoder, Encoder, Meter
from pyro_turbovbi.errors import UnsupportedError


def decisions(count: int, probs: list[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    contexts = rng.integers(0, len(probs), count)
    return contexts, (rng.random(count) < np.array(probs)[contexts]).astype(np.uint8)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 1000, 70_000])
@pytest.mark.parametrize("probs", [[0.5], [0.0, 1.0], [0.01, 0.3, 0.99]])
def test_round_trip(count: int, probs: list[float]) -> None:
    contexts, bits = decisions(count, probs, seed=count)
    encoder, model = Encoder(), AdaptiveModel(3)
    assert np.array_equal(encoder.batch(model, contexts, bits), bits)
    assert np.array_equal(encoder.run(model, 1, count, bits), bits)
    encoder.literal(3, np.array([1, 0, 1], np.uint8))
    decoder, model = Decoder(encoder.finish()), AdaptiveModel(3)
    assert np.array_equal(decoder.batch(model, contexts), bits)
    assert np.array_equal(decoder.run(model, 1, count), bits)
    assert decoder.literal(3).tolist() == [1, 0, 1]
    assert decoder.exhausted
    assert decoder.spent == encoder.spent


@pytest.mark.parametrize("prob", [0.0, 0.001, 0.02, 0.5, 0.97])
def test_length_is_near_the_empirical_entropy(prob: float) -> None:
    _, bits = decisions(50_000, [prob], seed=0)
    shares = [share for share in (bits.mean(), 1 - bits.mean()) if share > 0]
    entropy = -len(bits) * sum(share * math.log2(share) for share in shares)
    encoder = Encoder()
    encoder.run(AdaptiveModel(1), 0, len(bits), bits)
    size = 8 * len(encoder.finish())
    assert entropy <= size <= 1.01 * entropy + 96
    meter = Meter()
    meter.run(AdaptiveModel(1), 0, len(bits), bits)
    assert meter.spent == pytest.approx(encoder.spent)
    assert abs(size - meter.spent) <= 64


def test_probabilities_are_krichevsky_and_trofimovs() -> None:
    contexts, bits = decisions(500, [0.05, 0.7], seed=1)
    model = AdaptiveModel(3)
    model.update(contexts, bits)
    for context in (0, 1):
        own = bits[contexts == context]
        wanted = (own.sum() + 0.5) / (len(own) + 1)
        assert model.probabilities(np.array([context]))[0] == math.floor(wanted * 2**16)
    assert model.probabilities(np.array([2]))[0] == 2**15


def test_a_certain_context_never_reaches_probability_one() -> None:
    model = AdaptiveModel(1)
    model.update(np.zeros(10**6, np.int64), np.ones(10**6, np.uint8))
    assert model.probabilities(np.array([0])).tolist() == [2**16 - 1]


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UnsupportedError, match=r"constriction.*compress.*plain"):
        Encoder()
    with pytest.raises(UnsupportedError, match="constriction"):
        Decoder(b"")
