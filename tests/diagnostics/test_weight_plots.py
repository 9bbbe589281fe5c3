from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyro_turbovbi.diagnostics.weight_plots import weight_draws, weight_intervals
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.posterior import DiagonalPosterior

MEANS = {"a": torch.tensor([[0.1, -5.0, 0.2], [3.0, 0.0, -1.0]]), "b": torch.tensor([4.0, 0.3])}
FIT = SimpleNamespace(
    engine_name="fake",
    bnn=None,
    posterior=DiagonalPosterior(MEANS, {n: 0.5 * torch.ones_like(m) for n, m in MEANS.items()}),
)


def test_the_largest_weights_by_name_and_place() -> None:
    state = torch.get_rng_state()
    draws = weight_draws(FIT, number=3, num_samples=400, seed=1)
    assert list(draws) == ["a[0, 1]", "b[0]", "a[1, 0]"]
    assert torch.equal(torch.get_rng_state(), state)
    for values, mean in zip(draws.values(), (-5.0, 4.0, 3.0), strict=True):
        assert values.shape == (400,)
        # Five standard errors.
        assert values.mean().item() == pytest.approx(mean, abs=5 * 0.5 / 20)
        assert values.std().item() == pytest.approx(0.5, rel=5 / 800**0.5)
    again = weight_draws(FIT, number=99, num_samples=400, seed=1)
    assert len(again) == 8
    assert torch.equal(again["b[0]"], draws["b[0]"])


def test_intervals_are_quantiles() -> None:
    draws = {"w": torch.linspace(0.0, 1.0, 201), "v": torch.full((3,), 2.0)}
    (axes,) = weight_intervals(draws).axes
    zero, thin, thick, dot, *_ = axes.lines
    assert np.asarray(zero.get_xdata()).tolist() == [0, 0]
    assert np.asarray(thin.get_xdata()).tolist() == pytest.approx([0.025, 0.975])
    assert np.asarray(thick.get_xdata()).tolist() == pytest.approx([0.25, 0.75])
    assert np.asarray(dot.get_xdata()).tolist() == pytest.approx([0.5])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["w", "v"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="nothing to draw"):
        weight_intervals({})
    with pytest.raises(InvalidArgumentError, match="there is no draw of 'w'"):
        weight_intervals({"w": torch.zeros(0)})
    with pytest.raises(InvalidArgumentError, match="number is out of range; given: 0"):
        weight_draws(FIT, number=0)
    with pytest.raises(InvalidArgumentError, match="num_samples is out of range"):
        weight_draws(FIT, num_samples=0)
