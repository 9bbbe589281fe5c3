"""Order of units: runs against a plain count, tours against all permutations."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.compression.regularity import regularity
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.kernels.seriation import runs, seriate


def banded(units: int) -> Tensor:
    """Each feature is kept by a few neighbouring units: one run a feature."""
    position = torch.arange(units)
    starts = torch.arange(0, units - 4, 2)
    return (position[:, None] >= starts) & (position[:, None] < starts + 5)


@pytest.mark.parametrize("seed", range(6))
def test_small_problems_are_solved_as_well_as_by_trying_every_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(7, 9, generator=generator) < 0.35
    best = min(runs(features[list(order)]) for order in itertools.permutations(range(7)))
    # reversals are a local search: at most one run more than the best of all 5,040 orders
    assert runs(features[seriate(features)]) <= best + 1


def test_runs_are_those_that_regularity_counts() -> None:
    features = torch.rand(20, 30) < 0.3
    assert runs(features) == regularity(features.T).clusters


@pytest.mark.parametrize("units", [12, 60, 300])
def test_a_shuffled_band_is_found_again(units: int) -> None:
    features = banded(units)
    shuffled = features[torch.randperm(units, generator=torch.Generator().manual_seed(0))]
    found = runs(shuffled[seriate(shuffled)])
    assert runs(features) <= found <= 1.1 * runs(features)
    assert runs(shuffled) > 2 * found


@pytest.mark.parametrize("seed", range(3))
def test_the_result_is_a_permutation_that_is_never_worse(seed: int) -> None:
    features = torch.rand(40, 25, generator=torch.Generator().manual_seed(seed)) < 0.2
    order = seriate(features)
    assert order.sort().values.tolist() == list(range(40))
    assert runs(features[order]) <= runs(features)


@pytest.mark.parametrize(
    "features", [torch.zeros(5, 4), torch.ones(5, 4), torch.ones(1, 3), torch.zeros(4, 0)]
)
def test_where_no_order_is_better_the_given_one_stays(features: Tensor) -> None:
    assert seriate(features).tolist() == list(range(len(features)))


def test_features_must_be_a_matrix() -> None:
    with pytest.raises(InvalidArgumentError, match="no matrix"):
        seriate(torch.ones(4))
