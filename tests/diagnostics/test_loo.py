from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import pyro_turbovbi as ptv
from pyro_turbovbi import engines
from pyro_turbovbi.diagnostics import LeaveOneOut, leave_one_out, rank
from pyro_turbovbi.diagnostics._arviz import Groups, from_groups, import_arviz
from pyro_turbovbi.diagnostics.loo import from_log_likelihood
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError
from tests.diagnostics import conjugate


def _result(*pointwise: float, k: float = 0.1) -> LeaveOneOut:
    values = torch.tensor(pointwise, dtype=torch.float64)
    return LeaveOneOut(values, values + 0.25, torch.full_like(values, k), 1000)


def test_a_conjugate_model_agrees_with_fitting_without_each_point() -> None:
    x, y = conjugate.regression()
    result = leave_one_out(conjugate.exact_fit(x, y), (x, y), num_draws=4000)
    expected = conjugate.leave_one_out(x, y)
    assert result.reliable
    # Each point's Monte-Carlo error is about 1 / sqrt(4000) times a factor of order 1.
    assert torch.allclose(result.pointwise, expected, atol=0.06)
    assert result.elpd == pytest.approx(float(expected.sum()), abs=0.25)
    spread = float((40 * expected.var(correction=0)).sqrt())
    assert result.standard_error == pytest.approx(spread, rel=0.05)
    # Three weights, all of them determined by the data.
    assert result.effective_parameters == pytest.approx(3.0, abs=1.5)


def test_it_equals_arvizs() -> None:
    log_lik = -torch.randn(500, 30, dtype=torch.float64).square() * torch.linspace(0.1, 1.5, 30)
    result = from_log_likelihood(log_lik)
    arviz = import_arviz()
    data = {"posterior": {"w": torch.zeros(1, 500).numpy()}}
    groups = Groups(data | {"log_likelihood": {"y": log_lik[None].numpy()}})
    with pytest.warns(UserWarning, match="shape parameter of Pareto"):
        theirs = arviz.loo(from_groups(groups, arviz), pointwise=True, reff=1.0)
    assert result.elpd == pytest.approx(theirs.elpd_loo, rel=1e-10)
    assert result.standard_error == pytest.approx(theirs.se, rel=1e-10)
    assert result.effective_parameters == pytest.approx(theirs.p_loo, rel=1e-8)
    assert result.pointwise.numpy() == pytest.approx(theirs.loo_i.values, rel=1e-10)
    assert result.pareto_k.numpy() == pytest.approx(theirs.pareto_k.values, rel=1e-8)


def test_an_influential_point_is_bad() -> None:
    x, y = conjugate.regression(points=6)
    x[0] *= 30.0
    y[0] += 60.0
    result = leave_one_out(conjugate.exact_fit(x, y), (x, y))
    assert 0 in result.bad.tolist()
    assert not result.reliable
    assert "not reliable: k above 0.67 at" in str(result)


def test_the_draws_depend_on_the_seed_alone() -> None:
    x, y = conjugate.regression()
    fit = conjugate.exact_fit(x, y)
    state = torch.get_rng_state()
    first = leave_one_out(fit, (x, y), num_draws=50, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    again = leave_one_out(fit, (x, y), num_draws=50, seed=3)
    assert torch.equal(first.pointwise, again.pointwise)
    other = leave_one_out(fit, (x, y), num_draws=50, seed=4)
    assert not torch.equal(first.pointwise, other.pointwise)


def test_point_estimates_are_refused() -> None:
    x, y = conjugate.regression()
    fit = ptv.fit(conjugate.linear(), (x, y), engine=engines.MAP(), epochs=1, progress=False)
    with pytest.raises(UnsupportedError, match="needs a posterior, the fit is a point"):
        leave_one_out(fit, (x, y))


def test_a_ranking_has_paired_errors() -> None:
    better, worse = _result(-1.0, -2.0, -3.0), _result(-1.5, -2.0, -4.0)
    ranking = rank({"worse": worse, "better": better})
    first, second = ranking.fits
    assert (first.name, first.difference, first.difference_error) == ("better", 0.0, 0.0)
    assert (second.name, second.elpd, second.difference) == ("worse", -7.5, -1.5)
    differences = torch.tensor([-0.5, 0.0, -1.0], dtype=torch.float64)
    expected = float((3 * differences.var(correction=0)).sqrt())
    assert second.difference_error == pytest.approx(expected)
    assert first.effective_parameters == pytest.approx(0.75)
    lines = str(ranking).splitlines()
    assert lines[2].split() == ["better", "-6.0", "1.4", "0.0", "0.0", "0.8"]
    assert lines[3].startswith("worse")


def test_unreliable_results_are_not_ranked() -> None:
    good, bad = _result(-1.0, -2.0), _result(-1.0, -2.0, k=0.9)
    with pytest.raises(
        UnsupportedError,
        match=r"cannot be ranked.*given: b: k above 0.67 at 2 of 2 points, up to 0.90; "
        "accepted: a held-out test set",
    ):
        rank({"a": good, "b": bad})
    # The threshold depends on the number of draws.
    assert rank({"a": replace(_result(-1.0, k=0.68), num_draws=10_000)}).fits[0].elpd == -1.0


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="no fit to rank"):
        rank({})
    with pytest.raises(ShapeError, match="different points; given: a: 1, b: 2"):
        rank({"a": _result(-1.0), "b": _result(-1.0, -2.0)})
