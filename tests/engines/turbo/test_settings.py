"""Schedules and the checks of settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors
from pyro_turbovbi.engines import ModelReduction, SpikeAnnealing, Turbo, TurboSettings
from pyro_turbovbi.engines.turbo import TurboVBI
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.priors.three_layer import Components, GammaParameters

FINAL = Components(GammaParameters(1.0, 1.0), GammaParameters(4.0, 4 * 0.003**2))


def test_annealing_starts_wide_and_ends_as_declared() -> None:
    annealing = SpikeAnnealing(start=10.0, concentration=1.0, until=0.8)
    start, end = annealing.components(FINAL, 0.0), annealing.components(FINAL, 0.8)
    assert start.inactive.scale == pytest.approx(0.03)
    assert start.inactive.concentration == 1.0
    assert end == FINAL
    assert annealing.components(FINAL, 1.0) == FINAL


def test_annealing_is_geometric_in_the_scale() -> None:
    middle = SpikeAnnealing(start=10.0, until=0.8).components(FINAL, 0.4)
    assert middle.inactive.scale == pytest.approx(0.003 * 10**0.5)
    assert middle.active == FINAL.active


def test_annealing_never_outgrows_the_slab() -> None:
    start = SpikeAnnealing(start=1e6).components(FINAL, 0.0)
    assert start.inactive.scale == pytest.approx(0.5 * FINAL.active.scale)


def test_start_one_switches_annealing_off() -> None:
    annealing = SpikeAnnealing(start=1.0, concentration=4.0)
    for progress in (0.0, 0.5, 1.0):
        spike = annealing.components(FINAL, progress).inactive
        assert spike.concentration == pytest.approx(4.0)
        assert spike.rate == pytest.approx(FINAL.inactive.rate)


def test_kl_weight_warms_up_linearly() -> None:
    settings = TurboSettings(kl_weight=0.5, kl_warmup=0.2)
    weights = [settings.kl_weight_at(p) for p in (0.0, 0.1, 0.2, 1.0)]
    assert weights == pytest.approx([0.0, 0.25, 0.5, 0.5])
    assert TurboSettings(kl_weight=0.5, kl_warmup=0.0).kl_weight_at(0.0) == 0.5


def test_learning_rate_decays_to_zero() -> None:
    assert [TurboSettings().lr_factor_at(p) for p in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    assert TurboSettings(lr_decay=False).lr_factor_at(0.9) == 1.0


@pytest.mark.parametrize(("steps", "interval"), [(1, 1), (500, 10), (10_000, 100)])
def test_message_interval_follows_the_length_of_training(steps: int, interval: int) -> None:
    assert TurboSettings().message_interval(steps) == interval
    assert TurboSettings(messages_every=7).message_interval(steps) == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lr": 0.0},
            "Turbo setting 'lr' is out of range; given: 0.0; accepted: a positive number, or None",
        ),
        (
            {"damping": 1.0},
            "Turbo setting 'damping' is out of range; given: 1.0; accepted: a number in [0, 1)",
        ),
        (
            {"refresh_every": 0},
            "Turbo setting 'refresh_every' is out of range; given: 0; accepted: 1, 2, ...",
        ),
        (
            {"factorisation": "exact"},
            "Turbo setting 'factorisation' is unknown; given: exact; accepted: structured, "
            "mean_field",
        ),
        (
            {"weights": "full"},
            "Turbo setting 'weights' is unknown; given: full; accepted: diagonal, exact",
        ),
    ],
)
def test_wrong_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Turbo(**change)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_wrong_annealing_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="start >= 1"):
        SpikeAnnealing(start=0.5)


def test_defaults_suit_the_model_and_what_is_given_stays() -> None:
    net = torch.nn.Linear(3, 2)
    classifier = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.ThreeLayer())
    regression = ptv.lift(net, likelihood=likelihoods.Gaussian(), prior=priors.ThreeLayer())
    usual: dict[str, Any] = {"lr": 4e-3, "init_scale": 0.3}
    cases: tuple[tuple[Any, dict[str, Any]], ...] = (
        (classifier, {**usual, "kl_weight": 0.1, "reduction": ModelReduction()}),
        (regression, {"lr": 1e-2, "init_scale": 0.1, "kl_weight": 1.0}),
        (lambda: None, {**usual, "kl_weight": 1.0}),
    )
    given = TurboSettings(lr=0.5, init_scale=0.6, kl_weight=0.7, reduction=ModelReduction(0.5))
    for model, suited in cases:
        assert TurboSettings().completed(model) == replace(TurboSettings(), **suited)
        assert TurboVBI(model).settings == replace(TurboSettings(), **suited)
        assert given.completed(model) == given


def test_compression_is_a_factor_on_the_kl_weight() -> None:
    net = torch.nn.Linear(3, 2)
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.ThreeLayer())
    usual, small = (TurboSettings(compression=c).completed(bnn) for c in (1.0, 3.0))
    assert small.kl_weight == pytest.approx(3.0 * (usual.kl_weight or 0.0))
    assert small.completed(bnn) == small
    with pytest.raises(InvalidArgumentError, match="two names of one trade"):
        TurboSettings(compression=2.0, kl_weight=0.1)


def test_what_cannot_be_reduced_is_not() -> None:
    reduction = ModelReduction()
    assert TurboSettings(reduction=reduction).reduces
    assert not TurboSettings(reduction=reduction, weights="exact").reduces
    assert not TurboSettings(reduction=reduction, factorisation="mean_field").reduces
    assert not TurboSettings(reduction=ModelReduction(strength=0.0)).reduces
