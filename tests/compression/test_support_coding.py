"""Supports: round trips over odd shapes, contexts against a cell-by-cell count, regularity pays."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_turbovbi import supports
from pyro_turbovbi.compression.bit_coding import Decoder, Encoder
from pyro_turbovbi.compression.support_coding import (
    TEMPLATE_NAMES,
    TEMPLATES,
    Layout,
    choose_layout,
    code_support,
    fronts,
)


def coded_bits(support: np.ndarray, layout: Layout) -> float:
    """Writes a support, reads it back, and returns what it took."""
    encoder = Encoder()
    code_support(encoder, support.size, layout, support)
    decoder = Decoder(encoder.finish())
    assert np.array_equal(code_support(decoder, support.size, layout), support)
    assert decoder.exhausted
    return encoder.spent


def entropy_given_neighbours(support: np.ndarray, layout: Layout) -> float:
    """Bits of the empirical conditional entropy, cell by cell in plain Python."""
    rows, columns = support.size // layout.columns, layout.columns
    cells = support.reshape(rows, columns)
    counts: Counter[tuple[tuple[int, ...], int]] = Counter()
    for i in range(rows):
        for j in range(columns):
            near = [(i + di, j + dj) for di, dj in TEMPLATES[layout.template]]
            inside = (0 <= r < rows and 0 <= c < columns for r, c in near)
            context = tuple(
                int(cells[at]) if ok else 0 for at, ok in zip(near, inside, strict=True)
            )
            counts[context, int(cells[i, j])] += 1
    total = Counter[tuple[int, ...]]()
    for (context, _), count in counts.items():
        total[context] += count
    return sum(n * math.log2(total[context] / n) for (context, _), n in counts.items())


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), data=st.data())
def test_any_support_comes_back(
    template: int, rows: int, columns: int, data: st.DataObject
) -> None:
    cells = st.lists(st.integers(0, 1), min_size=rows * columns, max_size=rows * columns)
    coded_bits(np.array(data.draw(cells), np.uint8), Layout(template, columns))


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
@pytest.mark.parametrize("fill", ["none", "one", "all", "empty rows"])
def test_extreme_supports_cost_next_to_nothing(template: int, fill: str) -> None:
    support = np.zeros((40, 60), np.uint8)
    if fill == "one":
        support[17, 23] = 1
    elif fill != "none":
        support[:] = 1
    if fill == "empty rows":
        support[5:] = 0
    spent = coded_bits(support.ravel(), Layout(template, 60))
    assert spent < (1600 if fill == "empty rows" and template == 0 else 150)


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
@pytest.mark.parametrize("shape", [(120, 200), (300, 40), (20, 800)])
def test_length_is_near_the_conditional_entropy(template: int, shape: tuple[int, int]) -> None:
    law = supports.Grid(0.1, mean_run=3.0).distribution(torch.Size(shape))
    support = law.sample().numpy().astype(np.uint8).ravel()
    layout = Layout(template, shape[1])
    entropy = entropy_given_neighbours(support, layout)
    contexts = 1 << len(TEMPLATES[template])
    assert entropy <= coded_bits(support, layout) + 1e-6
    assert coded_bits(support, layout) <= 1.02 * entropy + 20 * contexts + 32


def test_chains_cost_their_entropy_rate() -> None:
    """H = (1 - density) h(p01) + density h(p10) bits a cell."""
    density, mean_run, shape = 0.02, 3.0, (300, 784)
    law = supports.Chain(density, mean_run).distribution(torch.Size(shape))
    support = law.sample().numpy().astype(np.uint8).ravel()

    def h(p: float) -> float:
        return -p * math.log2(p) - (1 - p) * math.log2(1 - p)

    p10 = 1 / mean_run
    p01 = p10 * density / (1 - density)
    rate = (1 - density) * h(p01) + density * h(p10)
    layout = choose_layout(support, [shape[1]])
    assert TEMPLATE_NAMES[layout.template] == "row chain"
    assert coded_bits(support, layout) == pytest.approx(rate * support.size, rel=0.05)
    assert coded_bits(support, layout) < 0.7 * coded_bits(support, Layout(0, shape[1]))


def test_the_cheapest_template_is_taken() -> None:
    rng = np.random.default_rng(0)
    disorder = (rng.random(4000) < 0.1).astype(np.uint8)
    assert choose_layout(disorder, [80]).template == 0
    y, x = np.mgrid[:28, :28]
    disc = ((y - 13.5) ** 2 + (x - 13.5) ** 2 < 100).astype(np.uint8).ravel()
    layout = choose_layout(disc, [784, 56, 28, 14])
    assert layout.columns == 28
    assert layout.template >= 2
    assert coded_bits(disc, layout) < 0.4 * coded_bits(disc, Layout(0, 784))


def test_fronts_are_counted_as_they_are_visited() -> None:
    assert fronts(12, Layout(0, 4)) == 0
    assert fronts(0, Layout(1, 4)) == 0
    assert fronts(12, Layout(1, 4)) == len({2 * i + j for i in range(3) for j in range(4)})


def test_long_empty_vectors_are_not_walked_through() -> None:
    support = np.zeros(100_000, np.uint8)
    support[::2000] = 1
    assert choose_layout(support, [100_000]).template == 0
