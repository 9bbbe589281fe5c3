"""Model reduction against quadrature, the Savage-Dickey ratio and a training by hand."""

from __future__ import annotations

from math import log, pi

import pytest
import torch
from torch import Tensor

from pyro_turbovbi.engines import ModelReduction
from pyro_turbovbi.engines.turbo.reduction import Reduction, reduced
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.kernels.evidence import log_evidence
from pyro_turbovbi.priors.three_layer import GammaParameters

SLAB = GammaParameters(1.0, 4.0)
SPIKE = GammaParameters(4.0, 4.0 * 0.01**2)
#: A concentration so large that the spike is Gaussian, of scale 0.01.
GAUSSIAN = GammaParameters(1e6, 1e6 * 0.01**2)


def at(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def slab_precision(moment: Tensor) -> Tensor:
    a, b = SLAB
    return (a + 0.5) / (b + 0.5 * moment)


def test_gaussian_spike_gives_the_savage_dickey_ratio() -> None:
    loc, scale = at([0.0, 0.3, 0.8, 2.0]), at([0.2, 0.2, 0.3, 0.4])
    precision = slab_precision(loc.square() + scale.square())
    change = reduced(loc, scale, precision, GAUSSIAN).change
    moment = loc.square() + scale.square()
    # evidence of the slab at q(w), on the scale on which the quadratic likelihood is exp(h w - ...)
    slope, curvature = loc / scale.square(), scale.reciprocal().square() - precision
    free = log_evidence(moment, *SLAB) + slope * loc - 0.5 * curvature * moment + scale.log()
    free = free + 0.5 * log(2 * pi) + 0.5  # entropy
    # exactly: the integral of Normal(w; 0, 0.01^2) exp(h w - curvature w^2 / 2)
    total = curvature + 1e4
    exact = 0.5 * (1e4 / total).log() + slope.square() / (2 * total)
    own = log_evidence(moment, *SLAB) - log_evidence(moment, *GAUSSIAN)
    torch.testing.assert_close(own + change, free - exact, rtol=0.0, atol=2e-3)


def test_maximum_over_a_grid_of_gaussians() -> None:
    loc, scale = at([0.4]), at([0.2])
    precision = slab_precision(loc.square() + scale.square())
    slope, curvature = loc / scale.square(), scale.reciprocal().square() - precision

    def free(mean: Tensor, var: Tensor) -> Tensor:
        moment = mean.square() + var
        likelihood = slope * mean - 0.5 * curvature * moment
        return log_evidence(moment, *SPIKE) + likelihood + 0.5 * var.log()

    means = torch.linspace(-0.02, 0.05, 701, dtype=torch.float64)
    deviations = torch.logspace(-3, -1, 801, dtype=torch.float64)
    best = free(means[:, None], deviations[None, :].square()).max()
    expected = free(loc, scale.square()) - best
    found = reduced(loc, scale, precision, SPIKE).change
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-3)


def test_wide_weight_is_reduced_and_a_certain_one_is_not() -> None:
    loc, scale = at([0.1, 3.0]), at([0.3, 0.3])
    moment = loc.square() + scale.square()
    change = reduced(loc, scale, slab_precision(moment), SPIKE).change
    llr = log_evidence(moment, *SLAB) - log_evidence(moment, *SPIKE)
    assert llr.min() > 0.0, "at one q(w) for both states each looks active"
    assert (llr + change)[0] < 0.0 < (llr + change)[1]


def test_at_the_spikes_own_optimum_nothing_changes() -> None:
    # the likelihood exp(h w - c w^2 / 2) with the q(w) that is best under the spike
    slope, curvature, precision = at([20.0]), at([100.0]), at([1e4])
    for _ in range(50):
        var = (precision + curvature).reciprocal()
        precision = (SPIKE.concentration + 0.5) / (SPIKE.rate + 0.5 * ((slope * var) ** 2 + var))
    loc = slope * (precision + curvature).reciprocal()
    scale = (precision + curvature).rsqrt()
    found = reduced(loc, scale, precision, SPIKE)
    torch.testing.assert_close(found.change, at([0.0]), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(found.precision, precision, rtol=1e-4, atol=0.0)


def test_decisions_are_held_while_q_is_on_its_way_and_dropped_once_it_has_arrived() -> None:
    reduction = Reduction(torch.zeros(1))
    wide, slab = torch.tensor([0.3]), torch.tensor([0.3])
    reduction.decide(torch.tensor([0.1]), wide, slab, SPIKE, torch.tensor([3.0]), 9.0)
    decided = reduction.change.clone()
    assert decided < 0.0
    assert reduction.precision > 1e3
    strong = torch.tensor([1e4])  # q(w) is trained under the spike's precision now, and still wide
    reduction.decide(torch.tensor([0.05]), wide, strong, SPIKE, torch.tensor([2.0]), 9.0)
    assert torch.equal(reduction.change, decided)
    narrow = torch.tensor([0.01])
    reduction.decide(torch.tensor([0.0]), narrow, strong, SPIKE, torch.tensor([-2.0]), 9.0)
    assert reduction.change == 0.0
    assert reduction.precision == 0.0


def test_a_weight_that_cannot_get_to_zero_any_more_stays() -> None:
    loc, scale = torch.tensor([0.1, 0.3]), torch.tensor([0.3, 0.3])
    reduction = Reduction(loc)
    llr = torch.tensor([3.0, 3.0])
    reduction.decide(loc, scale, slab_precision(loc.square() + 0.09), SPIKE, llr, reach=0.2)
    assert (reduction.change < 0.0).tolist() == [True, False]


def test_state_moves_to_a_part_and_back() -> None:
    reduction = Reduction(torch.zeros(3))
    reduction.load([torch.tensor([-1.0, 0.0, -2.0]), torch.tensor([5.0, 0.0, 7.0])])
    part = reduction.mapped(lambda whole: whole[1:])
    assert [t.tolist() for t in part.tensors()] == [[0.0, -2.0], [0.0, 7.0]]


@pytest.mark.parametrize(
    ("progress", "share", "decides"),
    [(0.0, 0.0, False), (0.35, 0.25, True), (0.6, 0.5, True), (0.9, 0.5, False)],
)
def test_schedule(progress: float, share: float, decides: bool) -> None:
    schedule = ModelReduction(strength=0.5)
    assert schedule.share_at(progress) == pytest.approx(share)
    assert schedule.decides_at(progress) is decides


def test_inactive_means_are_held_at_zero_in_the_end() -> None:
    assert [ModelReduction().settles_at(progress) for progress in (0.0, 0.89, 0.9, 1.0)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert not ModelReduction(settle=1.0).settles_at(1.0)
    assert not ModelReduction(strength=0.0).settles_at(1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"strength": 1.5},
        {"start": 0.7},
        {"full": 0.9},
        {"until": 1.2},
        {"start": -0.1},
        {"settle": 0.7},
        {"unit_loss": 1.1},
        {"unit_loss": -0.1},
    ],
)
def test_schedule_out_of_order(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgumentError, match="model reduction is out of range"):
        ModelReduction(**wrong)


@pytest.mark.parametrize("blame", [0.0, 0.5])
def test_blame_takes_a_share_of_the_likelihood(blame: float) -> None:
    """Half the blame is half of h and lambda; none leaves the law alone to decide."""
    loc, scale = at([0.0, 0.4, 0.9]), at([0.1, 0.2, 0.3])
    precision = slab_precision(loc.square() + scale.square())
    slope = blame * loc / scale.square()
    curvature = blame * (scale.reciprocal().square() - precision)

    def free(mean: Tensor, var: Tensor) -> Tensor:
        moment = mean.square() + var
        likelihood = slope * mean - 0.5 * curvature * moment
        return log_evidence(moment, *SPIKE) + likelihood + 0.5 * var.log()

    means = torch.linspace(-0.02, 0.05, 701, dtype=torch.float64)[:, None, None]
    deviations = torch.logspace(-3, -1, 801, dtype=torch.float64)[:, None]
    best = free(means, deviations.square()).flatten(0, 1).max(0).values
    found = reduced(loc, scale, precision, SPIKE, blame).change
    expected = (free(loc, scale.square()) - best).clamp_max(0.0)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=2e-3)
