"""Horseshoe, spike and slab, log-uniform: densities, starts and pruning rules."""

from __future__ import annotations

from math import e, inf, log, nan

import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch import distributions as td

from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.priors import Horseshoe, LogUniform, Moments, Prior, SpikeSlab
from pyro_turbovbi.priors.shrinkage import log_dropout, normal_average, root_mean_square

DOUBLE = torch.float64


def trace_of(prior: Prior, shape: tuple[int, ...], init: Tensor | None = None) -> poutine.Trace:
    start = torch.zeros(shape, dtype=DOUBLE) if init is None else init
    return poutine.trace(lambda: prior.sample("w", shape, init=start)).get_trace()


def test_horseshoe_sites_and_their_laws() -> None:
    prior = Horseshoe(global_scale=0.1, slab_scale=2.0, slab_df=3.0)
    trace = trace_of(prior, (3, 2))
    values = {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}
    assert list(values) == ["w_global", "w_slab", "w_local", "w_raw"]
    assert trace.nodes["w"]["infer"]["_deterministic"]
    tau, slab, eta, raw = values.values()
    expected = (
        td.HalfCauchy(tau.new_tensor(0.1)).log_prob(tau)
        + td.InverseGamma(tau.new_tensor(1.5), tau.new_tensor(6.0)).log_prob(slab)
        # lambda = eta / tau is half-Cauchy of scale 1
        + (td.HalfCauchy(tau.new_ones(())).log_prob(eta / tau) - tau.log()).sum()
        + td.Normal(tau.new_zeros(()), 1.0).log_prob(raw).sum()
    )
    torch.testing.assert_close(trace.log_prob_sum(), expected, rtol=1e-10, atol=0.0)
    # the authors' lambda~^2 = c^2 lambda^2 / (c^2 + tau^2 lambda^2)
    local = eta / tau
    limited = (slab * local.square() / (slab + tau.square() * local.square())).sqrt()
    torch.testing.assert_close(trace.nodes["w"]["value"], tau * limited * raw)


def test_horseshoe_weights_have_a_pole_tails_and_a_slab() -> None:
    """Shares of small and of large weights at a fixed global scale, against quadrature."""
    prior, tau = Horseshoe(slab_scale=3.0), 0.1
    data = {"w_global": torch.tensor(tau).double(), "w_slab": torch.tensor(9.0).double()}
    model = poutine.condition(
        lambda: prior.sample("w", (200_000,), init=torch.zeros(200_000)), data
    )
    w = poutine.trace(model).get_trace().nodes["w"]["value"].abs()
    # lambda = tan(pi u / 2) for uniform u
    u = (torch.arange(20_000, dtype=DOUBLE) + 0.5) / 20_000
    eta = tau * (u * torch.pi / 2).tan()
    scale = (9.0 * eta.square() / (9.0 + eta.square())).sqrt()
    for size in (0.01, 0.1, 1.0, 5.0):
        expected = float(torch.special.erfc(size / (scale * 2**0.5)).mean())
        error = 5 * (expected * (1 - expected) / len(w)) ** 0.5
        assert abs(float((w > size).double().mean()) - expected) < error


@pytest.mark.parametrize("init", [torch.randn(4, 5), torch.zeros(4, 5), 30 * torch.ones(2, 3)])
def test_horseshoe_starts_at_the_given_weights(init: Tensor) -> None:
    prior = Horseshoe()
    start = prior.start("w", init)
    torch.testing.assert_close(prior.weight("w", start), init)
    sites = poutine.trace(lambda: prior.sample("w", init.shape, init=init)).get_trace()
    assert {n: v.shape for n, v in start.items()} == {
        n: sites.nodes[n]["value"].shape for n in sites.stochastic_nodes
    }
    assert all(bool((start[f"w_{n}"] > 0).all()) for n in ("global", "local", "slab"))


@pytest.mark.parametrize(("data_precision", "kept"), [(0.9, False), (1.1, True), (0.0, False)])
def test_horseshoe_prunes_where_the_prior_holds_the_weight(
    data_precision: float, kept: bool
) -> None:
    """A quadratic likelihood of r with this precision leaves the variance 1 / (1 + precision)."""
    variance = torch.full((2,), 1.0 / (1.0 + data_precision))
    moments = {"w_raw": Moments(torch.zeros(2), variance.sqrt())}
    mask = Horseshoe().survivors("w", moments)
    assert mask is not None
    assert mask.tolist() == [kept, kept]
    point = {"w_raw": Moments(torch.ones(2), torch.zeros(2))}
    assert Horseshoe().survivors("w", point) is None, "a point says nothing about shrinkage"


def test_spike_slab_density_is_the_mixture() -> None:
    prior = SpikeSlab(0.3, slab=1.5, spike=0.1)
    trace = trace_of(prior, (3, 2))
    w = trace.nodes["w"]["value"]
    weights, scales = w.new_tensor([0.3, 0.7]), w.new_tensor([1.5, 0.1])
    oracle = td.MixtureSameFamily(td.Categorical(weights), td.Normal(w.new_zeros(2), scales))
    torch.testing.assert_close(trace.log_prob_sum(), oracle.log_prob(w).sum(), rtol=1e-6, atol=0.0)
    assert trace.stochastic_nodes == ["w"]


def test_spike_slab_probabilities_against_draws() -> None:
    prior = SpikeSlab(0.3, slab=1.5, spike=0.1)
    mean, scale = torch.tensor([0.0, 0.2, 0.3, 1.0]).double(), torch.tensor([0.05, 0.2, 0.1, 0.0])
    probs = prior.slab_probs(Moments(mean, scale.double()))
    w = mean + scale * torch.randn(200_000, 4, dtype=DOUBLE)
    slab = 0.3 * td.Normal(0.0, 1.5).log_prob(w).exp()
    spike = 0.7 * td.Normal(0.0, 0.1).log_prob(w).exp()
    torch.testing.assert_close(probs, (slab / (slab + spike)).mean(0), rtol=0.0, atol=0.01)
    kept = prior.survivors("w", {"w": Moments(mean, scale.double())})
    assert torch.equal(kept, probs > 0.5)
    assert kept.tolist() == [False, False, True, True]


def test_log_uniform_prior_emits_its_law_and_can_be_drawn_from() -> None:
    prior = LogUniform(low=0.1, high=2.0)
    trace = trace_of(prior, (50_000,))
    w = trace.nodes["w"]["value"]
    assert trace.stochastic_nodes == ["w"]
    expected = (2.0**2 - 0.1**2) / (2 * log(20))
    assert float(w.square().mean()) == pytest.approx(expected, rel=0.05)


def test_log_uniform_prunes_by_the_dropout_rate() -> None:
    scale = torch.full((4,), 0.1)
    mean = torch.tensor([0.1 * e**-1.49, -0.1 * e**-1.51, 0.0, 5.0])
    torch.testing.assert_close(
        log_dropout(mean, scale)[:2], torch.tensor([2.98, 3.02]), rtol=1e-4, atol=0.0
    )
    kept = LogUniform().survivors("w", {"w": Moments(mean, scale)})
    assert kept is not None
    assert kept.tolist() == [True, False, False, True]
    assert LogUniform().survivors("w", {"w": Moments(mean, 0 * scale)}) is None


def test_normal_average_against_closed_forms() -> None:
    mean, scale = torch.tensor([0.3, -1.0]).double(), torch.tensor([0.5, 2.0]).double()
    step = normal_average(lambda w: (w > 0).double(), mean, scale)
    torch.testing.assert_close(step, torch.special.ndtr(mean / scale), rtol=0.0, atol=1 / 64)
    torch.testing.assert_close(normal_average(lambda w: w, mean, scale), mean)


def test_root_mean_square() -> None:
    w = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    assert float(root_mean_square(w)) == pytest.approx(2.5)
    # an all-zero group counts as 1 / sqrt(fan-in)
    expected = torch.tensor([[12.5**0.5, 0.5**0.5]])
    torch.testing.assert_close(root_mean_square(w, [0]), expected)
    torch.testing.assert_close(root_mean_square(w[:1], []), torch.tensor([[3.0, 0.5**0.5]]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Horseshoe(slab_df=0.0),
            "slab_df of a Horseshoe prior is out of range; given: 0.0; "
            "accepted: a positive finite number",
        ),
        (
            lambda: SpikeSlab(1.0),
            "density of a SpikeSlab prior is out of range; given: 1.0; "
            "accepted: a probability in (0, 1)",
        ),
        (
            lambda: SpikeSlab(slab=0.1, spike=0.1),
            "spike and slab of a SpikeSlab prior are in the wrong order; "
            "given: spike=0.1, slab=0.1; accepted: spike smaller than slab",
        ),
        (
            lambda: LogUniform(low=0.0),
            "low of a LogUniform prior is out of range; given: 0.0; "
            "accepted: a positive finite number",
        ),
        (
            lambda: LogUniform(high=inf),
            "high of a LogUniform prior is out of range; given: inf; "
            "accepted: a positive finite number",
        ),
        (
            lambda: LogUniform(low=2.0, high=1.0),
            "low and high of a LogUniform prior are in the wrong order; "
            "given: low=2.0, high=1.0; accepted: low smaller than high",
        ),
        (
            lambda: LogUniform(threshold=nan),
            "threshold of a LogUniform prior is no number; given: nan; accepted: a number",
        ),
        (
            lambda: Horseshoe(global_scale="small"),  # type: ignore[arg-type]
            "global_scale of a Horseshoe prior is out of range; given: small; "
            "accepted: a positive finite number",
        ),
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_numbers_out_of_range(build: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        build()  # type: ignore[operator]
    assert str(error.value) == message
