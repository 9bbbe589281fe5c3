"""The stochastic engine: its gradients and its ELBO against Pyro and autograd; the method's
known pitfalls.
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.batches import Batch
from pyro_turbovbi.compression import masked
from pyro_turbovbi.engines import Plan, SpikeAnnealing, Turbo, TurboSettings, TurboVBI
from pyro_turbovbi.errors import InvalidArgumentError, NumericalError, UnsupportedError
from pyro_turbovbi.families import TurboGuide
from pyro_turbovbi.kernels import chain_log_evidence
from pyro_turbovbi.priors.three_layer import Components, GammaParameters


def small_net(prior: priors.Prior, num_data: int = 50) -> ptv.BayesianNet:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    bnn.num_data = num_data
    return bnn


def batch(rows: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (rows,), generator=generator)


def gradients(engine: TurboVBI, x: Tensor, y: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients that the engine computes in one step, before its optimiser moves
    anything.
    """
    engine.setup(x, y)
    engine._optimizer.step = lambda: None  # type: ignore[method-assign,assignment,return-value]
    torch.manual_seed(7)
    loss = engine.step(x, y)
    grads = {}
    for factor in engine.guide:
        assert factor.loc.grad is not None
        assert factor.log_scale.grad is not None
        grads[f"{factor.name}.loc"] = factor.loc.grad.clone()
        grads[f"{factor.name}.log_scale"] = factor.log_scale.grad.clone()
    return loss, grads


def test_gaussian_prior_equals_pyro_mean_field_elbo() -> None:
    """Loss and gradients equal `TraceMeanField_ELBO`'s for the same noise, point parameters
    included.
    """
    bnn, (x, y) = small_net(priors.Normal(0.3)), batch()
    engine = TurboVBI(bnn, settings=TurboSettings(kl_weight=1.0, kl_warmup=0.0))
    loss, grads = gradients(engine, x, y)
    points = {name: p.grad.clone() for name, p in bnn.points.items() if p.grad is not None}
    for parameter in [*engine.guide.parameters(), *bnn.parameters()]:
        parameter.grad = None

    torch.manual_seed(7)
    pyro_loss = TraceMeanField_ELBO().differentiable_loss(bnn, engine.guide, x, y)
    pyro_loss.backward()
    assert loss == pytest.approx(float(pyro_loss.detach()), rel=1e-10)
    for factor in engine.guide:
        for part in ("loc", "log_scale"):
            expected = getattr(factor, part).grad
            torch.testing.assert_close(
                grads[f"{factor.name}.{part}"], expected, rtol=1e-6, atol=1e-9
            )
    assert set(points) == {"net.0.bias", "net.2.bias"}
    for name, parameter in bnn.points.items():
        torch.testing.assert_close(points[name], parameter.grad, rtol=1e-6, atol=1e-9)


def log_z(m: Tensor, parameters: GammaParameters) -> Tensor:
    """ln Z of a component as a differentiable Student-t density."""
    a, b = parameters
    degrees, scale = (torch.tensor(v, dtype=torch.float64) for v in (2 * a, math.sqrt(b / a)))
    return torch.distributions.StudentT(degrees, 0 * scale, scale).log_prob(m.sqrt())


def test_structured_gradient_equals_autograd_of_the_collapsed_bound() -> None:
    """-ELBO = NLL(w) - entropy - ln sum_s p(s) prod Z_s(m), differentiated by autograd through
    the chain's recursion.
    """
    density, run = 0.3, 3.0
    prior = priors.ThreeLayer(
        supports.Chain(density, run), dist.Gamma(1.0, 1.0), dist.Gamma(2.0, 1e-3)
    )
    bnn, (x, y) = small_net(prior), batch()
    settings = TurboSettings(
        kl_weight=1.0, kl_warmup=0.0, damping=0.0, annealing=SpikeAnnealing(1.0, 2.0)
    )
    engine = TurboVBI(bnn, settings=settings)
    loss, grads = gradients(engine, x, y)

    torch.manual_seed(7)
    factors = list(engine.guide)
    noises = [torch.randn_like(f.loc) for f in factors]
    leaves = [
        (f.loc.detach().requires_grad_(), f.log_scale.detach().requires_grad_()) for f in factors
    ]
    weights, bound = {}, torch.zeros((), dtype=torch.float64)
    p10 = 1 / run
    p01 = p10 * density / (1 - density)
    components: Components = prior.components(torch.Size([1]))
    for factor, (loc, log_scale), noise in zip(factors, leaves, noises, strict=True):
        scale = log_scale.exp()
        weights[factor.name] = loc + scale * noise
        m = loc**2 + scale**2
        active, inactive = (log_z(m, c) for c in components)
        entropy = (log_scale + 0.5 * math.log(2 * math.pi * math.e)).sum()
        bound = (
            bound + entropy + inactive.sum() + chain_log_evidence(active - inactive, p01, p10).sum()
        )
    logits = bnn.output(weights, x)
    nll = nn.functional.cross_entropy(logits, y, reduction="sum") * (50 / len(x))
    (nll - bound).backward()
    assert loss == pytest.approx(float((nll - bound).detach()), rel=1e-9)
    for factor, (loc, log_scale) in zip(factors, leaves, strict=True):
        torch.testing.assert_close(grads[f"{factor.name}.loc"], loc.grad, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(
            grads[f"{factor.name}.log_scale"], log_scale.grad, rtol=1e-6, atol=1e-8
        )


def test_kl_weight_scales_only_the_prior_s_share_of_the_gradient() -> None:
    x, y = batch()
    _, none = gradients(
        TurboVBI(
            small_net(priors.Normal(0.3)), settings=TurboSettings(kl_weight=1e-12, kl_warmup=0.0)
        ),
        x,
        y,
    )
    loss_half, half = gradients(
        TurboVBI(
            small_net(priors.Normal(0.3)), settings=TurboSettings(kl_weight=0.5, kl_warmup=0.0)
        ),
        x,
        y,
    )
    loss_one, one = gradients(
        TurboVBI(
            small_net(priors.Normal(0.3)), settings=TurboSettings(kl_weight=1.0, kl_warmup=0.0)
        ),
        x,
        y,
    )
    for name, value in one.items():
        torch.testing.assert_close(half[name], 0.5 * (none[name] + value), rtol=1e-8, atol=1e-9)
    assert loss_half == pytest.approx(
        loss_one
    )  # the reported ELBO is the true one, whatever the weight


class Skipping(nn.Module):
    """Leaves its middle layer out in every second run of the training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4, sparse=True)
        self.middle, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        h = self.table(x).mean(1)
        self.runs += self.training
        return self.head(h + self.middle(h) if self.runs % 2 else h)


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("pattern", ["*weight", "middle.weight"])
def test_layers_that_are_left_out_hear_of_the_prior_alone(lean: bool, pattern: str) -> None:
    selection = priors.by_site({pattern: priors.Normal(0.5)}, default=priors.Normal(0.5))
    bnn = ptv.lift(Skipping(), likelihood=likelihoods.Categorical(), prior=selection)
    engine = Turbo(lean=lean, kl_weight=1.0, kl_warmup=0.0, lr=0.1)
    x, y = torch.randint(0, 9, (6, 5)), torch.randint(0, 3, (6,))
    state = engine.init(bnn.train(), Plan(6, 8, Batch((x, y))))
    assert isinstance(state, TurboVBI)
    net: Skipping = state.model.net  # type: ignore[attr-defined,unused-ignore]
    middle = next(f for f in state.guide if f.name == "middle.weight")
    seen, kept = [], state._optimizer.step

    def note() -> None:
        assert middle.loc.grad is not None
        pull = torch.dist(middle.loc.grad, middle.loc.detach() / 0.25)
        seen.append((bool(net.runs % 2), float(pull) < 1e-5))
        kept()

    state._optimizer.step = note  # type: ignore[method-assign,assignment]
    before = net.table.weight.detach().clone()
    for _ in range(6):
        assert math.isfinite(engine.step(state, Batch((x, y))))
    assert sorted(seen) == [(False, True)] * 3 + [(True, False)] * 3
    trained = next((f.loc for f in state.guide if f.name == "table.weight"), net.table.weight)
    assert not torch.equal(trained.detach(), before), "sparse gradients count too"


def test_loss_between_exchanges_is_continued_along_the_tangent() -> None:
    """Without moving q(w), refreshes and exchanges leave the loss where it is."""
    prior = priors.ThreeLayer(supports.Chain(0.3, 3.0))
    bnn, (x, y) = small_net(prior), batch()
    engine = TurboVBI(bnn, settings=TurboSettings(damping=0.0))
    engine.setup(x, y)
    site, factor = engine.sites["0.weight"], next(iter(engine.guide))
    m = factor.second_moment().detach()
    exact = float(site.prior_bound(m))
    site.refresh(m)
    assert float(site.prior_bound(m)) == pytest.approx(exact, rel=1e-12)
    step = 1e-4 * torch.rand_like(m) * m
    slope = float(site.prior_bound(m + step)) - exact
    site.refresh(m + step)
    assert float(site.prior_bound(m + step)) - exact == pytest.approx(slope, rel=1e-2)


def test_swapping_svi_for_turbovbi_is_one_line() -> None:
    """A hand-written Pyro model with weights from a prior, another latent site and a param."""
    prior = priors.ThreeLayer(supports.Chain(0.2, 2.0))

    def model(x: Tensor, y: Tensor | None = None) -> Tensor:
        w = prior.sample("w", torch.Size([1, 4]))
        bias = pyro.param("bias", torch.zeros(1))
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(x @ w[0] + bias, noise), obs=y)  # type: ignore[no-any-return]

    torch.manual_seed(0)
    x = torch.randn(200, 4)
    y = x @ torch.tensor([2.0, 0.0, 0.0, -1.0]) + 0.5 + 0.1 * torch.randn(200)
    turbo = TurboVBI(model, pyro.optim.Adam({"lr": 1e-2}), num_steps=600)
    losses = [turbo.step(x, y) for _ in range(600)]
    assert sum(losses[-50:]) < 0.5 * sum(losses[:50])
    assert turbo.evaluate_loss(x, y) < losses[0]
    probs = turbo.sites["w"].probs  # type: ignore[attr-defined]
    assert (probs[0] > 0.5).tolist() == [True, False, False, True]
    loc = next(iter(turbo.guide)).loc.detach()[0]
    torch.testing.assert_close(loc, torch.tensor([2.0, 0.0, 0.0, -1.0]), rtol=0, atol=0.1)
    assert float(pyro.param("bias").detach()) == pytest.approx(0.5, abs=0.1)
    assert turbo.guide.autoguide is not None
    noise = turbo.guide.autoguide.median()["noise"]
    assert float(noise) == pytest.approx(0.1, rel=0.5)
    pyro.clear_param_store()


def test_guide_of_turbovbi_runs_under_stock_pyro() -> None:
    bnn, (x, y) = small_net(priors.ThreeLayer(supports.Chain(0.3, 3.0))), batch()
    engine = TurboVBI(bnn)
    engine.step(x, y)
    trace = pyro.poutine.trace(engine.guide).get_trace(x, y)
    names = {name for name in trace.stochastic_nodes}
    weights = {"0.weight", "2.weight"}
    assert names == weights | {f"{w}_{part}" for w in weights for part in ("support", "precision")}
    assert isinstance(engine.guide, TurboGuide)


def test_models_without_our_weights_are_refused() -> None:
    def model() -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(UnsupportedError, match="draws no weight from a prior of this package"):
        TurboVBI(model).step()


def test_discrete_latents_elsewhere_are_refused() -> None:
    def model() -> None:
        priors.Normal(1.0).sample("w", torch.Size([2]))
        pyro.sample("switch", dist.Bernoulli(0.5))

    with pytest.raises(
        UnsupportedError, match="discrete latent sites outside the weight priors; given: switch"
    ):
        TurboVBI(model).step()


def test_setting_up_does_not_train_batch_statistics() -> None:
    net = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)).double()
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.Normal())
    TurboVBI(bnn).step(*batch())
    assert int(bnn.net[1].num_batches_tracked) == 1  # type: ignore[index,arg-type]


def test_the_last_exchange_is_under_the_prior_as_declared() -> None:
    """An annealing over the whole training ends at the final spike, for both kinds of weights."""
    whole = SpikeAnnealing(start=10.0, until=1.0)
    x, y = sparse_problem()
    prior = priors.ThreeLayer(supports.Chain(0.1, 2.0))
    bnn = ptv.lift(nn.Linear(40, 1), likelihood=likelihoods.Gaussian(0.3), prior=prior)
    for weights in ("diagonal", "exact"):
        engine = Turbo(annealing=whole, weights=weights)  # type: ignore[arg-type]
        state = engine.init(bnn, Plan(len(x), 3, Batch((x, y))))
        for _ in range(3):
            engine.step(state, Batch((x, y)))
        engine.finish(state)
        site = state.site if weights == "exact" else state.sites["weight"]  # type: ignore[union-attr]
        assert site.components == prior.components(torch.Size([1, 40]))  # type: ignore[union-attr]


def test_hyper_parameters_are_learned_only_when_the_spike_is_narrow() -> None:
    """While the spike is wide nothing is active: EM would learn an empty support for good."""
    bnn, (x, y) = small_net(priors.ThreeLayer(supports.Chain(0.3, 3.0))), batch()
    settings = TurboSettings(learn_hyper=True, messages_every=1)
    engine = TurboVBI(bnn, settings=settings, num_steps=20)
    densities = []
    for _ in range(20):
        engine.step(x, y)
        densities.append(float(engine.sites["0.weight"].module_b.distribution.density))  # type: ignore[attr-defined]
    assert densities[15] == pytest.approx(0.3)
    assert densities[19] != pytest.approx(0.3)


def test_a_loss_that_is_not_finite_stops_before_it_does_harm() -> None:
    bnn, (x, y) = small_net(priors.Normal(0.3)), batch()
    engine = TurboVBI(bnn)
    engine.step(x, y)
    before = [p.detach().clone() for p in engine.guide.parameters()]
    with pytest.raises(NumericalError, match="the loss is not finite at step 1"):
        engine.step(x * float("inf"), y)
    for old, parameter in zip(before, engine.guide.parameters(), strict=True):
        assert torch.equal(old, parameter.detach())


def test_there_is_no_guide_before_a_first_batch() -> None:
    run = TurboVBI(small_net(priors.Normal(0.3)))
    with pytest.raises(InvalidArgumentError, match=r"no parameters yet.*after setup"):
        _ = run.guide
    run.setup(*batch())
    assert [factor.name for factor in run.guide] == list(run.sites)


def test_an_exchange_needs_a_first_batch() -> None:
    with pytest.raises(InvalidArgumentError, match=r"no parameters yet.*after setup"):
        TurboVBI(small_net(priors.Normal(0.3))).exchange()


def test_other_errors_of_the_model_stay_what_they_are() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.Normal(1.0))
    engine = TurboVBI(bnn)
    with pytest.raises(ValueError, match="more than 1 value per channel") as error:
        engine.step(torch.ones(1, 2), torch.zeros(1, dtype=torch.long))
    assert not isinstance(error.value, NumericalError)


# The method's pitfalls, on a problem whose truth is known: 4 of 40 inputs matter, 10 are always
# zero.

RELEVANT = [3, 4, 20, 33]
SILENT = slice(5, 15)


def sparse_problem(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, 40, generator=generator)
    x[:, SILENT] = 0.0
    weights = torch.zeros(40)
    weights[RELEVANT] = torch.tensor([1.0, -0.7, 0.8, 1.2])
    return x, x @ weights + 0.1 * torch.randn(400, generator=generator)


def fit_sparse(
    settings: Turbo, start_scale: float = 1.0, active: dist.Gamma | None = None
) -> ptv.Fit:
    torch.manual_seed(0)
    net = nn.Linear(40, 1)
    with torch.no_grad():
        net.weight.mul_(start_scale)
    prior = priors.ThreeLayer(supports.Chain(0.1, 2.0), active=active)
    bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(scale=0.3), prior=prior)
    return ptv.fit(
        bnn, sparse_problem(), engine=settings, epochs=200, batch_size=100, progress=False
    )


@pytest.mark.parametrize("start_scale", [0.0, 6.0])
def test_result_does_not_depend_on_the_start(start_scale: float) -> None:
    """Neither frozen dense nor collapsed to empty, from weights of zero, small and large."""
    fit = fit_sparse(Turbo(lr=1e-2), start_scale)
    assert fit.masks()["weight"][0].nonzero().flatten().tolist() == RELEVANT


def test_pruned_net_is_like_the_posterior_mean() -> None:
    fit = fit_sparse(Turbo(lr=1e-2))
    assert fit.masks()["weight"][0].nonzero().flatten().tolist() == RELEVANT
    x, y = sparse_problem(1)
    mean = fit.mean_net()
    pruned = masked(mean, fit.masks())
    with torch.no_grad():
        errors = [float((net(x)[:, 0] - y).square().mean().sqrt()) for net in (mean, pruned)]
    assert errors[0] == pytest.approx(errors[1], abs=0.02)
    assert errors[1] < 0.2


@pytest.mark.parametrize("gates", [None, "shared"])
def test_a_pruned_classifier_is_its_posterior_mean(gates: Any) -> None:
    """Batch normalisation makes small weights count; held at zero, they have been replaced."""
    x, y = sparse_problem()
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(40, 20, bias=False), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 2)
    )
    prior = priors.ThreeLayer(supports.Chain(0.1, 2.0), gates=gates)
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    engine = Turbo(lr=1e-2, gates_from=0.3)
    fit = ptv.fit(bnn, (x, (y > 0).long()), engine=engine, epochs=30, progress=False)
    mean, masks = fit.posterior.mean(), fit.masks()
    assert all(bool((mean[name][~mask] == 0.0).all()) for name, mask in masks.items())
    assert 0.0 < float(masks["0.weight"].float().mean()) < 1.0
    pruned = masked(fit.mean_net(), masks)
    torch.testing.assert_close(pruned(x), fit.mean_net()(x))


@pytest.mark.parametrize(("start", "kept"), [(1.0, True), (15.0, False)])
def test_a_narrow_spike_from_the_start_freezes_weights_dense(start: float, kept: bool) -> None:
    """Why annealing is the default: without it, weights that see no data stay in a slab of
    moderate width.
    """
    annealing = SpikeAnnealing(start, 4.0)
    settings = Turbo(lr=1e-2, init_scale=0.3, kl_weight=1.0, annealing=annealing)
    fit = fit_sparse(settings, active=dist.Gamma(1.0, 10.0))
    silent = fit.masks()["weight"][0, SILENT]
    assert float(silent.float().mean()) > 0.8 if kept else not bool(silent.any())


def test_mean_field_keeps_every_weight_it_starts_with() -> None:
    """The published factorisation, started active: documented not to move."""
    fit = fit_sparse(
        Turbo(
            lr=1e-2, factorisation="mean_field", start="active", annealing=SpikeAnnealing(1.0, 4.0)
        )
    )
    assert float(fit.masks()["weight"].float().mean()) == 1.0
