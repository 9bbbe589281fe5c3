"""Integers: round trips, length against the entropy of known laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_turbovbi.compression.bit_coding import Decoder, Encoder
from pyro_turbovbi.compression.integer_coding import (
    LARGEST,
    MagnitudeModel,
    code_magnitudes,
    code_signed,
)


def coded_bits(values: np.ndarray) -> float:
    encoder = Encoder()
    assert np.array_equal(code_signed(encoder, MagnitudeModel(), len(values), values), values)
    decoder = Decoder(encoder.finish())
    assert np.array_equal(code_signed(decoder, MagnitudeModel(), len(values)), values)
    assert decoder.exhausted
    return encoder.spent


@given(st.lists(st.integers(-LARGEST, LARGEST).filter(bool), max_size=60))
def test_any_integers_come_back(values: list[int]) -> None:
    coded_bits(np.array(values, np.int64))


@pytest.mark.parametrize("value", [1, -1, 2, 3, -4, LARGEST, -LARGEST])
def test_one_repeated_value_costs_its_sign_alone(value: int) -> None:
    low_bits = max(0, abs(value).bit_length() - 3)
    spent = coded_bits(np.full(3000, value, np.int64))
    assert spent < 3000 * (1 + low_bits) + 400


def rounded(draws: np.ndarray) -> np.ndarray:
    values = np.rint(draws).astype(np.int64)
    return values[values != 0]


@pytest.mark.parametrize("law", ["laplace", "normal", "student", "uniform"])
@pytest.mark.parametrize("scale", [1.0, 6.0, 40.0])
def test_length_is_near_the_empirical_entropy(law: str, scale: float) -> None:
    rng = np.random.default_rng(0)
    draws = {
        "laplace": rng.laplace(size=40_000),
        "normal": rng.normal(size=40_000),
        "student": rng.standard_t(3, size=40_000),
        "uniform": rng.uniform(-2, 2, size=40_000),
    }[law]
    values = rounded(draws * scale)
    counts = np.unique(values, return_counts=True)[1]
    entropy = float((counts * np.log2(len(values) / counts)).sum())
    assert entropy * 0.99 <= coded_bits(values) <= 1.02 * entropy + 600


def test_geometric_magnitudes_cost_their_entropy() -> None:
    rng = np.random.default_rng(1)
    p = 0.1
    values = rng.geometric(p, size=30_000).astype(np.int64)
    encoder = Encoder()
    code_magnitudes(encoder, MagnitudeModel(), len(values), values)
    entropy = (-(1 - p) * math.log2(1 - p) - p * math.log2(p)) / p
    assert encoder.spent == pytest.approx(entropy * len(values), rel=0.02)
    decoder = Decoder(encoder.finish())
    assert np.array_equal(code_magnitudes(decoder, MagnitudeModel(), len(values)), values)
