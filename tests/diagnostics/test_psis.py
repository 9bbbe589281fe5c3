from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_turbovbi.diagnostics._arviz import import_arviz
from pyro_turbovbi.diagnostics.psis import fit_generalised_pareto, k_threshold, pareto_smooth
from pyro_turbovbi.errors import InvalidArgumentError, NumericalError


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("draws", [25, 100, 1000, 4001])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 40.0])
def test_smoothing_agrees_with_arviz(draws: int, scale: float) -> None:
    log_ratios = scale * _normal(draws, 7)
    expected, k = import_arviz().psislw(log_ratios.T.numpy().copy(), normalize=False)
    smoothed = pareto_smooth(log_ratios)
    assert smoothed.k.numpy() == pytest.approx(np.asarray(k), rel=1e-9)
    assert smoothed.log_ratios.T.numpy() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_every_column_is_smoothed_alone_whatever_the_shape() -> None:
    log_ratios = _normal(100, 3, 500)
    together = pareto_smooth(log_ratios)
    assert together.k.shape == (3, 500)
    alone = pareto_smooth(log_ratios[:, 2, 444])
    assert alone.k.shape == ()
    assert float(alone.k) == pytest.approx(float(together.k[2, 444]))
    assert torch.allclose(alone.log_ratios, together.log_ratios[:, 2, 444])


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.4, 0.9, 1.5])
def test_the_fit_finds_a_known_law(shape: float) -> None:
    rng = np.random.default_rng(0)
    sample = np.sort(stats.genpareto.rvs(shape, scale=2.0, size=(4, 20_000), random_state=rng))
    fit = fit_generalised_pareto(torch.from_numpy(sample))
    # Asymptotic standard error of the shape: (1 + k) / sqrt(n).
    assert fit.shape.numpy() == pytest.approx(np.full(4, shape), abs=5 * (1 + shape) / 20_000**0.5)
    assert fit.scale.numpy() == pytest.approx(np.full(4, 2.0), rel=0.1)


def test_only_the_largest_ratios_change_and_their_order_stays() -> None:
    log_ratios = _normal(1000)
    smoothed = pareto_smooth(log_ratios).log_ratios
    changed = (smoothed != log_ratios).sum()
    assert 0 < int(changed) <= 95  # ceil(3 sqrt(1000))
    assert bool((smoothed[log_ratios.argsort()].diff() >= 0.0).all())
    assert smoothed.max() <= log_ratios.max()


def test_equal_ratios_have_no_tail() -> None:
    smoothed = pareto_smooth(torch.full((50, 2), -3.0))
    assert smoothed.k.tolist() == [-torch.inf, -torch.inf]
    assert torch.equal(smoothed.log_ratios, torch.full((50, 2), -3.0, dtype=torch.float64))


def test_a_draw_that_outweighs_all_others_has_the_heaviest_tail() -> None:
    log_ratios = torch.zeros(50)
    log_ratios[3] = 1e6
    assert float(pareto_smooth(log_ratios).k) == torch.inf


def test_the_threshold_grows_with_the_draws_up_to_its_limit() -> None:
    assert k_threshold(100) == pytest.approx(0.5)
    assert k_threshold(1000) == pytest.approx(2 / 3)
    assert k_threshold(10_000) == 0.7


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"too few draws.*given: 24"):
        pareto_smooth(torch.zeros(24))
    with pytest.raises(NumericalError, match="not finite"):
        pareto_smooth(torch.full((30,), torch.nan))
