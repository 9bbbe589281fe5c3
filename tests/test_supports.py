from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from pyro_turbovbi import supports
from pyro_turbovbi.distributions import (
    BlockSupport,
    GatedMarkovSupport,
    IndependentSupport,
    MarkovChainSupport,
    MarkovGridSupport,
)
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError

SPECS = [
    supports.Independent(),
    supports.Chain(),
    supports.Grid(),
    supports.Gated(),
    supports.Blocks(),
]


def test_each_makes_its_distribution() -> None:
    kinds = [
        IndependentSupport,
        MarkovChainSupport,
        MarkovGridSupport,
        GatedMarkovSupport,
        BlockSupport,
    ]
    for spec, kind in zip(SPECS, kinds, strict=True):
        made = spec.distribution(torch.Size([6, 7]))
        assert type(made) is kind
        assert made.event_shape == (6, 7)
        assert float(made.density) == pytest.approx(0.05)
        assert isinstance(spec, supports.Support)


def test_specifications_are_frozen_values() -> None:
    assert supports.Chain(0.1, 4) == supports.Chain(density=0.1, mean_run=4.0)
    assert supports.Chain(0.1) != supports.Chain(0.2)
    assert repr(supports.Independent(0.1)) == "Independent(density=0.1)"
    assert len({supports.Grid(mean_run=5), supports.Grid(mean_run=(5.0, 5.0))}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        supports.Grid().density = 0.5  # type: ignore[misc]


def test_chain_turns_density_and_run_into_transitions() -> None:
    made = supports.Chain(0.2, mean_run=4.0, dim=0).distribution((3, 4))
    assert float(made.p10) == pytest.approx(0.25)
    assert float(made.p01) == pytest.approx(0.0625)
    assert made.dim == 0


@pytest.mark.parametrize("p01", [1e-8, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("p10", [1e-8, 0.2, 0.999])
def test_from_transitions_round_trip(p01: float, p10: float) -> None:
    spec = supports.Chain.from_transitions(p01, p10, dim=1)
    made = spec.distribution((3, 4))
    assert float(made.p01) == pytest.approx(p01, rel=1e-7)
    assert float(made.p10) == pytest.approx(p10, rel=1e-12)
    assert spec.dim == 1


def test_grid_takes_one_run_for_both_directions() -> None:
    assert supports.Grid(mean_run=3).mean_run == (3.0, 3.0)
    made = supports.Grid(0.2, mean_run=(3.0, 2.0), sweeps=4, damping=0.1).distribution((3, 4))
    row, column = made.laws
    assert row.p10 == pytest.approx(1 / 3)
    assert column.p10 == pytest.approx(1 / 2)
    assert (made.sweeps, made.damping) == (4, 0.1)


def test_the_smallest_possible_mean_run_is_accepted() -> None:
    for density in (0.05, 0.5, 0.9):
        smallest = max(1.0, density / (1 - density))
        for spec in (supports.Chain(density, smallest), supports.Grid(density, smallest)):
            made = spec.distribution((3, 4))
            post = made.posterior(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
            assert bool(torch.isfinite(post.log_odds).all())


@pytest.mark.parametrize("density", [0, 0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_refuses_densities_outside_the_unit_interval(density: float) -> None:
    for kind in (supports.Independent, supports.Chain, supports.Grid):
        with pytest.raises(InvalidArgumentError, match=r"density is no probability.*\(0, 1\)"):
            kind(density=density)


@pytest.mark.parametrize(
    ("density", "run", "smallest"), [(0.05, 0.5, "1"), (0.9, 5.0, "9"), (0.05, math.inf, "1")]
)
def test_refuses_runs_that_no_chain_has(density: float, run: float, smallest: str) -> None:
    for kind in (supports.Chain, supports.Grid):
        with pytest.raises(InvalidArgumentError, match=f"at least {smallest}, the smallest"):
            kind(density=density, mean_run=run)
    with pytest.raises(InvalidArgumentError, match="mean_run along columns"):
        supports.Grid(density, mean_run=(20.0, run))


@pytest.mark.parametrize("bad", [0.0, 1.0, math.nan])
def test_refuses_bad_transitions(bad: float) -> None:
    with pytest.raises(InvalidArgumentError, match="p01"):
        supports.Chain.from_transitions(bad, 0.5)
    with pytest.raises(InvalidArgumentError, match="p10"):
        supports.Chain.from_transitions(0.5, bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweeps": 0}, "sweeps"),
        ({"damping": 1.0}, r"damping.*\[0, 1\)"),
        ({"damping": -0.1}, "damping"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"mean_run": (5.0, 5.0, 5.0)}, "pair"),
    ],
)
def test_refuses_bad_grids(options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        supports.Grid(**options)


def test_says_why_a_shape_does_not_fit() -> None:
    with pytest.raises(ShapeError, match="for a vector use a chain"):
        supports.Grid().distribution((5,))
    with pytest.raises(ShapeError, match="dim 3"):
        supports.Chain(dim=3).distribution((5, 4))
    with pytest.raises(ShapeError, match="at least one dim"):
        supports.Chain().distribution(())


def test_whole_numbers_will_do() -> None:
    assert float(supports.Chain(0.1, mean_run=10).distribution((3, 4)).p10) == pytest.approx(0.1)
    assert supports.Gated(gate=(0.2, 4), within=(0.5, 2)).distribution((3, 4)).laws[0].p10 == 0.25


def test_gated_takes_a_law_for_gates_and_one_for_weights() -> None:
    spec = supports.Gated(gate=(0.2, 4), within=[0.5, 2.0], gate_dim=1, dim=0)
    assert (spec.gate, spec.within) == ((0.2, 4.0), (0.5, 2.0))
    made = spec.distribution((3, 4))
    gate, within = made.laws
    assert gate == pytest.approx((0.0625, 0.25))
    assert within == pytest.approx((0.5, 0.5))
    assert float(made.density) == pytest.approx(0.1)
    assert (made.gate_dim, made.dim) == (1, 0)


def test_blocks_take_any_support() -> None:
    spec = supports.Blocks(size=[2, 3], support=supports.Gated())
    assert spec == supports.Blocks((2, 3), supports.Gated())
    made = spec.distribution((5, 7))
    assert made.blocks.event_shape == (3, 3)
    assert isinstance(made.blocks, GatedMarkovSupport)


def test_grid_runs_over_chosen_dims() -> None:
    assert supports.Grid(dims=[0, 1]) == supports.Grid(dims=(0, 1))
    assert supports.Grid(dims=(0, 1)).distribution((4, 5, 3, 3)).dims == (0, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: supports.Gated(gate=(0.5, 0.5)), "mean run of gate"),
        (lambda: supports.Gated(within=(1.5, 3.0)), "density of within"),
        (lambda: supports.Gated(within=(0.5, 3.0, 1.0)), "within is not understood.*pair"),
        (lambda: supports.Gated(gate_dim=0.5), "gate_dim"),
        (lambda: supports.Gated(dim=True), "dim is no dim"),
        (lambda: supports.Chain(dim=0.5), "dim is no dim"),
        (lambda: supports.Blocks(size=(4, 0)), "size.*integers >= 1"),
        (lambda: supports.Blocks(size=(4, 4, 4)), "size"),
        (lambda: supports.Blocks(size=4), "size is no size of a block.*given: 4.*two integers"),
        (lambda: supports.Gated(gate=0.5), "gate is not understood.*given: 0.5.*pair"),
        (lambda: supports.Grid(mean_run=None), "mean_run of a grid.*a number, or a pair"),
        (lambda: supports.Grid(dims=1), "dims of a grid.*given: 1"),
        (lambda: supports.Blocks(support=0.05), "support prior.*supports.Chain"),
        (lambda: supports.Grid(dims=(0, 1, 2)), "dims of a grid"),
        (lambda: supports.Gated().distribution((5,)), "two different dims"),
        (lambda: supports.Blocks().distribution((5,)), "rows and columns"),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_refuses_bad_gates_and_blocks(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
