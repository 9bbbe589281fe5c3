"""Shrinkage laws against torch's own, quadrature, moments of draws and a published KL fit."""

from __future__ import annotations

from math import e, log, pi

import pytest
import torch
from torch import Tensor
from torch import distributions as td

from pyro_turbovbi.distributions.shrinkage import (
    GroupLaplace,
    HalfCauchy,
    LogUniformNormal,
    NormalMixture,
    group_norms,
)

LIKE = torch.zeros((), dtype=torch.float64)
GRID = torch.linspace(-4.0, 4.0, 801, dtype=torch.float64)
EULER = 0.5772156649015329


def log_grid(low: float, high: float, points: int = 200_001) -> Tensor:
    """Points at equal steps of the logarithm."""
    return torch.linspace(log(low), log(high), points, dtype=torch.float64).exp()


def test_half_cauchy_draws_and_keeps_its_gradient() -> None:
    scale = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    law = HalfCauchy(scale).expand(torch.Size((100_000,)))
    draws = law.rsample()
    for size in (0.05, 0.5, 5.0):
        expected = float(2 / torch.pi * torch.tensor(size / 0.5).atan())
        share = float((draws < size).double().mean())
        assert abs(share - expected) < 5 * (expected * (1 - expected) / len(draws)) ** 0.5
    (slope,) = torch.autograd.grad(draws.sum(), scale)
    torch.testing.assert_close(slope, draws.detach().sum() / 0.5)
    assert not law.sample().requires_grad
    oracle = td.HalfCauchy(scale.detach()).log_prob(draws.detach())
    torch.testing.assert_close(law.log_prob(draws).detach(), oracle)


def test_normal_mixture_is_the_two_component_mixture() -> None:
    law = NormalMixture((801,), 0.3, 1.5, 0.1, LIKE)
    weights, scales = LIKE.new_tensor([0.3, 0.7]), LIKE.new_tensor([1.5, 0.1])
    oracle = td.MixtureSameFamily(td.Categorical(weights), td.Normal(LIKE.new_zeros(2), scales))
    torch.testing.assert_close(law.log_prob(GRID), oracle.log_prob(GRID), rtol=1e-12, atol=1e-12)
    each = weights.log() + td.Normal(LIKE.new_zeros(2), scales).log_prob(GRID[:, None])
    torch.testing.assert_close(law.log_odds(GRID), each[:, 0] - each[:, 1], rtol=1e-10, atol=1e-10)


def test_normal_mixture_draws() -> None:
    draws = NormalMixture((100_000,), 0.3, 1.5, 0.1, LIKE).sample()
    assert draws.dtype == torch.float64
    square = draws.square()
    standard_error = float(square.std()) / len(draws) ** 0.5
    assert abs(float(square.mean()) - (0.3 * 1.5**2 + 0.7 * 0.1**2)) < 5 * standard_error
    assert abs(float((draws.abs() > 0.5).double().mean()) - 0.3 * 0.7389) < 0.01


@pytest.mark.parametrize(("low", "high"), [(1e-3, 10.0), (0.5, 0.6), (1e-6, 1e3)])
def test_log_uniform_is_the_integral_over_the_scales(low: float, high: float) -> None:
    scales = log_grid(low, high)
    values = torch.cat([LIKE.new_zeros(1), log_grid(low * 1e-4, high * 5, 41)])
    densities = td.Normal(0.0, scales).log_prob(values[:, None]).exp()
    oracle = torch.trapezoid(densities, scales.log()) / log(high / low)
    law = LogUniformNormal(values.shape, low, high, LIKE)
    torch.testing.assert_close(law.log_prob(values).exp(), oracle, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(law.log_prob(-values), law.log_prob(values), rtol=0.0, atol=0.0)


def test_log_uniform_is_normalised_and_log_uniform_inside_its_bounds() -> None:
    values = log_grid(1e-9, 1e3)
    law = LogUniformNormal(values.shape, 1e-3, 10.0, LIKE)
    density = law.log_prob(values).exp()
    total = 2.0 * torch.trapezoid(density * values, values.log())
    torch.testing.assert_close(total, LIKE + 1.0, rtol=1e-6, atol=0.0)
    inside = (values > 0.01) & (values < 1.0)
    flat = (density * values)[inside] * 2 * log(1e4)
    torch.testing.assert_close(flat, torch.ones_like(flat), rtol=0.1, atol=0.0)
    middle = (values > 0.05) & (values < 0.2)
    flat = (density * values)[middle] * 2 * log(1e4)
    torch.testing.assert_close(flat, torch.ones_like(flat), rtol=0.02, atol=0.0)


def test_log_uniform_in_single_precision() -> None:
    """Values and slopes are finite everywhere and those of double precision."""
    values = torch.cat([-log_grid(1e-8, 1e2, 201), LIKE.new_zeros(1), log_grid(1e-8, 1e2, 201)])
    results = []
    for like in (LIKE, LIKE.float()):
        w = values.to(like.dtype).requires_grad_()
        log_prob = LogUniformNormal(w.shape, 1e-3, 10.0, like).log_prob(w)
        (slope,) = torch.autograd.grad(log_prob.sum(), w)
        results.append((log_prob.detach().double(), slope.double()))
    (exact, exact_slope), (single, single_slope) = results
    assert single.isfinite().all()
    torch.testing.assert_close(single, exact, rtol=1e-4, atol=1e-4)
    assert single_slope.isfinite().all()
    # the density is flat around zero, so slopes are compared in units of 1 / low
    torch.testing.assert_close(single_slope, exact_slope, rtol=1e-3, atol=1.0)


def test_slope_of_the_log_uniform_law() -> None:
    w = torch.cat([log_grid(2e-6, 200.0, 101), -log_grid(2e-6, 200.0, 101)]).requires_grad_()

    def law(x: Tensor) -> Tensor:
        return LogUniformNormal(x.shape, 1e-3, 10.0, LIKE).log_prob(x)

    (slope,) = torch.autograd.grad(law(w).sum(), w)
    step = 1e-6 * w.detach().abs()
    numeric = (law(w.detach() + step) - law(w.detach() - step)) / (2 * step)
    torch.testing.assert_close(slope, numeric, rtol=1e-4, atol=1e-3)


def test_log_uniform_draws() -> None:
    low, high = 0.1, 2.0
    draws = LogUniformNormal((), low, high, LIKE).sample(torch.Size((200_000,)))
    second = (high**2 - low**2) / (2 * log(high / low))
    fourth = 3 * (high**4 - low**4) / (4 * log(high / low))
    error = ((fourth - second**2) / len(draws)) ** 0.5
    assert abs(float(draws.square().mean()) - second) < 5 * error
    # E ln |w| = E ln s + E ln |z|
    expected = 0.5 * (log(low) + log(high)) - 0.5 * (EULER + log(2))
    logs = draws.abs().log()
    assert abs(float(logs.mean()) - expected) < 5 * float(logs.std()) / len(draws) ** 0.5


@pytest.mark.parametrize("log_alpha", [-6.0, -2.0, 0.0, 1.0, 3.0, 6.0])
def test_kl_from_a_normal_is_that_of_sparse_variational_dropout(log_alpha: float) -> None:
    """KL(Normal(m, alpha m^2) || 1 / |w|) by quadrature against the fit of Molchanov et al."""
    mean, scale = 0.05, 0.05 * e ** (log_alpha / 2)
    # equal steps of |w| in logarithms on both sides of the pole
    size = log_grid(1e-9 * scale, mean + 12 * scale)
    law = LogUniformNormal(size.shape, 1e-9, 1e6, LIKE)
    kl = LIKE
    for w in (size, -size):
        q = td.Normal(LIKE + mean, LIKE + scale).log_prob(w)
        kl = kl + torch.trapezoid(q.exp() * (q - law.log_prob(w)) * size, size.log())
    kl = kl - log(2 * log(1e6 / 1e-9))  # the improper law has no normaliser ...
    kl = kl + 0.5 * log(2 * pi * e) + 0.5 * (EULER + log(2))  # ... and ends at 0 for large alpha
    a, b, c = 0.63576, 1.87320, 1.48695
    sigmoid = 1.0 / (1.0 + e ** -(b + c * log_alpha))
    published = a - a * sigmoid + 0.5 * log(1.0 + e**-log_alpha)
    assert abs(float(kl) - published) < 0.012


def test_group_laplace_with_groups_of_one_is_laplace() -> None:
    values = torch.randn(5, dtype=torch.float64)
    law = GroupLaplace((5,), 2.0, 0, LIKE)
    oracle = td.Laplace(LIKE, LIKE + 0.5).log_prob(values).sum()
    torch.testing.assert_close(law.log_prob(values), oracle, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("size", [2, 3])
def test_group_laplace_is_normalised(size: int) -> None:
    axis = torch.linspace(-8.0, 8.0, 801 if size == 2 else 121, dtype=torch.float64)
    points = torch.cartesian_prod(*[axis] * size)[:, :, None]
    density = GroupLaplace((size, 1), 3.0, 1, LIKE).log_prob(points).exp()
    step = float(axis[1] - axis[0])
    assert float(density.sum()) * step**size == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(("shape", "dim"), [((3, 4), 1), ((3, 4), 0), ((3, 4, 2, 2), 1), ((6,), 0)])
def test_group_laplace_adds_up_over_groups(shape: tuple[int, ...], dim: int) -> None:
    law = GroupLaplace(shape, 2.0, dim, LIKE)
    draws = law.sample(torch.Size((7,)))
    assert draws.shape == (7, *shape)
    total = LIKE.new_zeros(7)
    for group in draws.movedim(dim + 1, 0):
        flat = group.reshape(7, -1, 1)
        total = total + GroupLaplace(flat.shape[1:], 2.0, 1, LIKE).log_prob(flat)
    torch.testing.assert_close(law.log_prob(draws), total, rtol=1e-12, atol=1e-12)
    assert law.support.check(draws).shape == (7,)


def test_group_laplace_draws_have_gamma_norms_and_no_direction() -> None:
    draws = GroupLaplace((6, 1), 2.0, 1, LIKE).sample(torch.Size((40_000,)))
    norms = group_norms(draws, [-2]).flatten()
    error = 5 / len(norms) ** 0.5
    assert abs(float(norms.mean()) - 6 / 2.0) < error * 6**0.5 / 2.0
    assert abs(float(norms.var()) - 6 / 4.0) < error * 10
    direction = draws.flatten(1) / norms[:, None]
    assert float(direction.mean(0).abs().max()) < error


def test_the_norm_has_a_gradient_at_zero() -> None:
    w = torch.zeros(3, 2, requires_grad=True)
    GroupLaplace((3, 2), 2.0, 1, torch.zeros(())).log_prob(w).backward()
    assert w.grad is not None
    assert (w.grad == 0).all()


@pytest.mark.parametrize(
    "law",
    [NormalMixture((3,), 0.5, 1.0, 0.1, LIKE), LogUniformNormal((3,), 0.1, 1.0, LIKE)],
    ids=["mixture", "log-uniform"],
)
def test_laws_expand_and_check(law: NormalMixture | LogUniformNormal) -> None:
    wide = law.expand(torch.Size((2, 3)))
    value = torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(wide.log_prob(value)[0], law.log_prob(value[0]))
    assert wide.sample().shape == (2, 3)
    with pytest.raises(ValueError, match="support"):
        type(law).expand(law, (3,)).log_prob(value[0] * torch.nan)
