from __future__ import annotations

import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.diagnostics import variational_khat
from pyro_turbovbi.diagnostics.khat import KHat, marginal_log_prior
from pyro_turbovbi.errors import UnsupportedError
from tests.diagnostics import conjugate
from tests.oracles.enumeration import all_states, chain_log_prior


@pytest.mark.parametrize("widths", [(0.5, 0.5, 0.5), (0.7, 1.0, 1.0), (0.9, 1.1, 1.2)])
def test_a_normal_that_is_too_narrow_has_a_known_k(widths: tuple[float, ...]) -> None:
    x, y = conjugate.regression()
    fit = conjugate.diagonal_fit(x, y, torch.tensor(widths))
    # With a scale c times the posterior's, ln r = const + (1 / c^2 - 1) z^2 / 2 for z of the
    # posterior's scale; P(r > t) falls as t^(-1 / (1 - c^2)) up to powers of ln t.
    result = variational_khat(fit, (x, y), num_draws=2500)
    assert result.k == pytest.approx(1.0 - min(widths) ** 2, abs=0.2)


def test_a_wider_normal_has_bounded_ratios() -> None:
    x, y = conjugate.regression()
    result = variational_khat(conjugate.diagonal_fit(x, y, torch.tensor(1.5)), (x, y))
    assert result.k < 0.2
    assert result.reliable


def test_the_exact_posterior_has_equal_ratios() -> None:
    x, y = conjugate.regression()
    result = variational_khat(conjugate.diagonal_fit(x, y, torch.tensor(1.0)), (x, y), num_draws=50)
    evidence = conjugate.log_evidence(x, y)
    assert result.log_ratios.numpy() == pytest.approx([evidence] * 50, abs=1e-8)
    assert result.log_evidence == pytest.approx(evidence, abs=1e-8)
    assert result.elbo == pytest.approx(evidence, abs=1e-8)


def test_the_evidence_and_the_elbo_are_those_of_the_closed_form() -> None:
    x, y = conjugate.regression()
    widths = torch.tensor([0.8, 1.0, 1.3], dtype=torch.float64)
    result = variational_khat(conjugate.diagonal_fit(x, y, widths), (x, y), num_draws=2500)
    evidence = conjugate.log_evidence(x, y)
    assert result.log_evidence == pytest.approx(evidence, abs=0.07)
    gap = float((0.5 * (widths.square() - 1.0) - widths.log()).sum())  # KL(q || posterior)
    assert result.elbo == pytest.approx(evidence - gap, abs=0.07)


@pytest.mark.parametrize("shape", [(2, 3), (1, 6)])
def test_the_three_layer_prior_sums_over_all_supports(shape: tuple[int, ...]) -> None:
    prior = priors.ThreeLayer(supports.Chain(density=0.3, mean_run=3.0))
    size = torch.Size(shape)
    weight = torch.linspace(-2.0, 3.0, 6, dtype=torch.float64).reshape(shape)
    (a1, b1), (a0, b0) = prior.components(size)
    laws = [
        torch.distributions.StudentT(
            *torch.tensor([2 * a, 0.0, (b / a) ** 0.5], dtype=torch.float64)
        )
        for a, b in ((a0, b0), (a1, b1))
    ]
    inactive, active = (law.log_prob(weight).flatten() for law in laws)
    states = all_states(6)
    p10 = 1 / 3.0
    log_prior = chain_log_prior(states.reshape(-1, *shape), p10 * 0.3 / 0.7, p10).sum(-1)
    terms = log_prior + (states * active + (1 - states) * inactive).sum(1)
    value = marginal_log_prior("w", prior, weight)
    assert float(value) == pytest.approx(float(terms.logsumexp(0)), abs=1e-9)


def test_the_normal_prior_is_its_own_marginal() -> None:
    weight = torch.randn(4, 3)
    scale = torch.tensor(0.25, dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, scale).log_prob(weight.double()).sum()
    value = marginal_log_prior("w", priors.Normal(0.25), weight)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)


def _small(prior: priors.Prior, engine: engines.Engine) -> tuple[ptv.Fit, tuple[torch.Tensor, ...]]:
    x, y = conjugate.regression()
    data = (x.float(), y.float())
    net = nn.Linear(conjugate.COLUMNS, 1)
    likelihood = likelihoods.Gaussian(conjugate.NOISE, learn=False)
    bnn = ptv.lift(net, likelihood=likelihood, prior=prior)
    return ptv.fit(bnn, data, engine=engine, epochs=150, batch_size=40, progress=False), data


def test_turbo_reports_no_more_than_the_elbo_of_its_weights() -> None:
    prior = priors.ThreeLayer(supports.Chain(density=0.3, mean_run=3.0))
    fit, data = _small(prior, engines.Turbo(kl_weight=1.0, lr=4e-2))
    result = variational_khat(fit, data, num_draws=400)
    # The bound holds E[w^2] inside the supports' evidence, a lower bound on the mean of the exact.
    assert fit.elbo is not None
    noise = 5 * float(result.log_ratios.std()) / 400**0.5 + 5.0  # fit.elbo is of one draw
    assert fit.elbo <= result.elbo + noise
    assert result.elbo <= result.log_evidence + 0.05
    assert result.k < 1.0


def test_stock_svi_reaches_a_diagonal_posterior() -> None:
    fit, data = _small(priors.Normal(2.0), engines.SVI(lr=5e-2))
    result = variational_khat(fit, data, num_draws=400)
    assert result.reliable
    assert "k-hat" in str(result)
    assert result.verdict in str(result)


@pytest.mark.parametrize(
    ("k", "words"), [(0.3, "close to"), (0.6, "usable"), (0.7, "too far"), (3.0, "too far")]
)
def test_the_verdict_follows_k(k: float, words: str) -> None:
    result = KHat(k, torch.zeros(1000, dtype=torch.float64), 0.0)
    assert words in result.verdict
    assert result.reliable == (words != "too far")


def test_what_has_no_density_is_refused() -> None:
    x, y = conjugate.regression()
    with pytest.raises(UnsupportedError, match=r"needs a q.* whose density is known"):
        variational_khat(conjugate.exact_fit(x, y), (x, y))
    with pytest.raises(UnsupportedError, match=r"needs a q.* whose density is known"):
        variational_khat(conjugate.diagonal_fit(x, y, torch.tensor(0.0)), (x, y))


def test_a_prior_without_a_marginal_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="intractable"):
        marginal_log_prior("w", priors.ThreeLayer(supports.Grid()), torch.zeros(3, 3))

    class Hierarchical(priors.Prior):
        def emit(self, name: str, shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
            import pyro
            import pyro.distributions as dist

            scale = pyro.sample(f"{name}_scale", dist.LogNormal(like.new_zeros(()), 1.0))
            return pyro.sample(name, dist.Normal(like.new_zeros(shape), scale).to_event(len(shape)))

    with pytest.raises(UnsupportedError, match=r"latent variables.*with w_scale"):
        marginal_log_prior("w", Hierarchical(), torch.zeros(2))
