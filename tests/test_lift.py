"""Lifting: the net stays the user's, the result is a genuine Pyro model."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    SiteError,
    TurboVBIWarning,
    UnsupportedError,
)
from pyro_turbovbi.lift import weight_matrices
from pyro_turbovbi.priors import SubstituteWeights, discover_weights

NORMAL = priors.Normal(0.5)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def classifier(net: nn.Module | None = None, prior: object = NORMAL) -> ptv.BayesianNet:
    return ptv.lift(net or mlp(), likelihood=likelihoods.Categorical(), prior=prior)  # type: ignore


def batch(rows: int = 6, features: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, features), torch.randint(classes, (rows,))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.head(self.norm(x + mixed).mean(1))


class Text(nn.Module):
    """Tied: the embedding is also the output layer's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x).mean(1))


class Shared(nn.Module):
    """One layer used twice, and nested modules."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"inner": nn.Sequential(nn.Linear(4, 4), nn.Tanh())})
        self.again = self.body["inner"][0]
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.body["inner"](x)))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(2, 3), nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.left(a) - self.right(b)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], set[str]]] = {
    "linear": (mlp, lambda: torch.randn(6, 4), {"0.weight", "2.weight"}),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(9, 3)),
        lambda: torch.randn(6, 2, 5),
        {"0.weight", "2.weight"},
    ),
    "conv2d": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3)
        ),
        lambda: torch.randn(6, 1, 5, 5),
        {"0.weight", "3.weight"},
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)),
        lambda: torch.randn(6, 4),
        {"0.weight", "2.weight"},
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)),
        lambda: torch.randn(6, 4),
        {"1.weight"},
    ),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(7, 2), nn.Flatten(), nn.Linear(4, 3)),
        lambda: torch.randint(7, (6, 2)),
        {"2.weight"},
    ),
    "attention": (
        Attention,
        lambda: torch.randn(6, 5, 4),
        {"attention.in_proj_weight", "attention.out_proj.weight", "head.weight"},
    ),
    "tied": (Text, lambda: torch.randint(7, (6, 3)), {"embed.weight"}),
    "shared": (Shared, lambda: torch.randn(6, 4), {"body.inner.0.weight", "head.weight"}),
}
every_net = pytest.mark.parametrize("case", NETS.values(), ids=list(NETS))


@every_net
def test_default_prior_is_on_weight_matrices_and_the_rest_are_points(
    case: tuple[Callable[[], nn.Module], Callable[[], Tensor], set[str]],
) -> None:
    build, _, expected = case
    net = build()
    bnn = classifier(net)
    assert set(bnn.sites) == expected
    assert {name.removeprefix("net.") for name in bnn.points} == {
        name for name, _ in net.named_parameters() if name not in expected
    }
    named = dict(net.named_parameters())
    for name, site in bnn.sites.items():
        assert site.shape == named[name].shape
        assert site.prior == NORMAL
        assert site.init is not None
        assert torch.equal(site.init, named[name])


@every_net
def test_output_is_the_nets_own_under_its_own_weights_and_follows_new_ones(
    case: tuple[Callable[[], nn.Module], Callable[[], Tensor], set[str]],
) -> None:
    build, inputs, _ = case
    net, x = build().eval(), inputs()
    bnn = classifier(net).eval()
    assert torch.equal(bnn.output({}, x), net(x))
    weights = {name: torch.randn(site.shape) for name, site in bnn.sites.items()}
    carrying = bnn.net_with(weights)
    assert not carrying.training
    torch.testing.assert_close(bnn.output(weights, x), carrying(x))
    assert not torch.allclose(carrying(x), net(x))


@every_net
def test_the_users_net_is_never_changed(
    case: tuple[Callable[[], nn.Module], Callable[[], Tensor], set[str]],
) -> None:
    build, inputs, _ = case
    net, x = build(), inputs()
    for vector in [p for p in net.parameters() if p.dim() == 1][:1]:
        vector.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    flags = [(p.requires_grad, sorted(p.__dict__)) for p in net.parameters()]
    attributes = {name: set(vars(module)) for name, module in net.named_modules()}
    bnn = classifier(net)
    y = torch.randint(3, (len(x),))
    weights = {n: torch.zeros(s.shape, requires_grad=True) for n, s in bnn.sites.items()}
    with SubstituteWeights(weights):
        poutine.trace(bnn).get_trace(x, y).log_prob_sum().backward()
    bnn.net_with({name: torch.zeros(site.shape) for name, site in bnn.sites.items()})
    with torch.no_grad():
        for point in bnn.points.values():
            point.add_(1.0)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [(p.requires_grad, sorted(p.__dict__)) for p in net.parameters()] == flags
    assert {name: set(vars(module)) for name, module in net.named_modules()} == attributes
    assert all(p.grad is None for p in net.parameters())
    assert net.training


def test_tied_weights_are_one_site_and_tied_in_the_forward() -> None:
    bnn = classifier(Text())
    assert list(bnn.sites) == ["embed.weight"]
    tokens, weight = torch.tensor([[2, 2, 5]]), torch.randn(7, 4)
    by_hand = ((2 * weight[2] + weight[5]) / 3) @ weight.T
    torch.testing.assert_close(bnn.output({"embed.weight": weight}, tokens), by_hand[None])


def test_a_shared_layer_is_one_site_that_acts_twice() -> None:
    bnn = classifier(Shared())
    x, weight = torch.randn(2, 4), torch.randn(4, 4)
    inner, head = bnn.net.get_submodule("body.inner.0"), bnn.net.get_submodule("head")
    hidden = torch.tanh(F.linear(x, weight, inner.bias))  # type: ignore[arg-type]
    by_hand = head(F.linear(hidden, weight, inner.bias))  # type: ignore[arg-type]
    parameters = dict(bnn.net.named_parameters())
    torch.testing.assert_close(bnn.output({"body.inner.0.weight": weight}, x), by_hand)
    after = dict(bnn.net.named_parameters())
    assert all(after[name] is parameter for name, parameter in parameters.items())


def test_weight_matrices_leave_out_every_bias_of_attention() -> None:
    net = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True)
    assert set(weight_matrices(net)) == {
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
        "out_proj.weight",
    }


def test_by_site_replaces_the_default_selection() -> None:
    small = priors.Normal(0.01)
    selection = priors.by_site({"2.*": small, "0.weight": None}, default=NORMAL)
    bnn = classifier(prior=selection)
    assert {name: site.prior for name, site in bnn.sites.items()} == {
        "2.weight": small,
        "2.bias": small,
    }
    assert set(bnn.points) == {"net.0.weight", "net.0.bias"}
    embedding = classifier(
        nn.Sequential(nn.Embedding(7, 2), nn.Flatten()), priors.by_site({"0.weight": small})
    )
    assert set(embedding.sites) == {"0.weight"}


def test_unmatched_pattern_lists_the_sites() -> None:
    with pytest.raises(
        SiteError, match=r"given: conv\*; accepted: .*0\.weight, 0\.bias, 2\.weight"
    ):
        classifier(prior=priors.by_site({"conv*": NORMAL}))


def test_frozen_parameters_are_no_points() -> None:
    net = mlp()
    net[0].bias.requires_grad_(False)
    assert set(classifier(net).points) == {"net.2.bias"}


def test_with_prior_copies_and_keeps_likelihood() -> None:
    bnn = ptv.lift(mlp(), likelihood=likelihoods.Gaussian(0.3), prior=NORMAL)
    other = bnn.with_prior(priors.ThreeLayer())
    assert isinstance(other.sites["0.weight"].prior, priors.ThreeLayer)
    assert bnn.sites["0.weight"].prior == NORMAL
    with torch.no_grad():
        for point in other.points.values():
            point.add_(1.0)
    assert bnn.likelihood.scale == pytest.approx(0.3)
    assert not torch.equal(bnn.points["net.0.bias"], other.points["net.0.bias"])


def test_trace_log_prob_is_the_normal_prior_plus_the_scaled_likelihood() -> None:
    bnn, (x, y) = classifier(mlp().double()), batch()
    x = x.double()
    with bnn.scaled_to(60):
        trace = poutine.trace(bnn).get_trace(x, y)
    assert bnn.num_data is None
    assert set(trace.stochastic_nodes) - {"data"} == {"0.weight", "2.weight"}
    assert trace.observation_nodes == ["y"]
    weights = {name: trace.nodes[name]["value"] for name in bnn.sites}
    prior = sum(
        (-0.5 * (w / 0.5).square() - math.log(0.5) - 0.5 * math.log(2 * math.pi)).sum()
        for w in weights.values()
    )
    log_probs = bnn.output(weights, x).log_softmax(-1)
    by_hand = prior + 60 / 6 * log_probs[torch.arange(6), y].sum()
    torch.testing.assert_close(trace.log_prob_sum(), by_hand, rtol=1e-12, atol=0.0)


def test_trace_log_prob_of_the_three_layers() -> None:
    prior = priors.ThreeLayer(
        support=supports.Independent(0.3),
        active=dist.Gamma(2.0, 3.0),
        inactive=dist.Gamma(4.0, 0.01),
    )
    bnn, (x, y) = classifier(nn.Linear(4, 3).double(), prior), batch()
    trace = poutine.trace(bnn).get_trace(x.double(), y)
    s, rho, w = (trace.nodes[n]["value"] for n in ("weight_support", "weight_precision", "weight"))
    gamma = torch.where(
        s > 0.5,
        torch.distributions.Gamma(2.0, 3.0).log_prob(rho),
        torch.distributions.Gamma(4.0, 0.01).log_prob(rho),
    )
    by_hand = (
        torch.where(s > 0.5, math.log(0.3), math.log(0.7)).sum()
        + gamma.sum()
        + (0.5 * rho.log() - 0.5 * rho * w**2 - 0.5 * math.log(2 * math.pi)).sum()
        - F.cross_entropy(F.linear(x.double(), w, bnn.net.bias), y, reduction="sum")  # type: ignore
    )
    torch.testing.assert_close(trace.log_prob_sum(), by_hand, rtol=1e-6, atol=1e-6)


def test_batch_log_likelihoods_average_to_that_of_all_data() -> None:
    bnn, (x, y) = classifier(mlp().double()), batch(rows=24)
    x = x.double()
    start = {name: site.init for name, site in bnn.sites.items()}
    with SubstituteWeights(start):  # type: ignore[arg-type]
        full = poutine.trace(bnn).get_trace(x, y).log_prob_sum()
        with bnn.scaled_to(24):
            parts = [
                poutine.trace(bnn).get_trace(*part).log_prob_sum()
                for part in zip(x.split(8), y.split(8), strict=True)
            ]
    torch.testing.assert_close(sum(parts) / 3, full, rtol=1e-12, atol=0.0)


def test_batch_norm_statistics_move_as_in_plain_training() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    bnn = classifier(net)
    plain = copy.deepcopy(net).train()
    start = {name: site.init for name, site in bnn.sites.items()}
    for _ in range(3):
        x, y = batch()
        plain(x)
        with SubstituteWeights(start):  # type: ignore[arg-type]
            bnn(x, y)
    torch.testing.assert_close(dict(bnn.net.named_buffers()), dict(plain.named_buffers()))
    bnn.eval()(x, y)
    torch.testing.assert_close(dict(bnn.net.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize(
    "support",
    [supports.Independent(0.2), supports.Chain(0.2, 5.0), supports.Grid(0.2, 2.0)],
    ids=lambda s: type(s).__name__,
)
def test_prior_predictive(support: supports.Support) -> None:
    bnn = classifier(mlp(), priors.ThreeLayer(support=support))
    draws = Predictive(bnn, num_samples=7)(torch.randn(6, 4))
    assert draws["y"].shape == (7, 6)
    assert set(draws["y"].unique().tolist()) <= {0, 1, 2}
    for name, site in bnn.sites.items():
        assert draws[name].shape == (7, 1, *site.shape)  # Pyro keeps one dim for the data plate
        assert (draws[f"{name}_precision"] > 0).all()
        assert set(draws[f"{name}_support"].unique().tolist()) <= {0.0, 1.0}
        # slab weights are drawn at about 300 times the scale of spike weights
        active = draws[f"{name}_support"] > 0.5
        assert draws[name][active].abs().median() > 20 * draws[name][~active].abs().median()


def test_render_model_draws_every_site() -> None:
    bnn, (x, y) = classifier(prior=priors.ThreeLayer()), batch()
    source = pyro.render_model(bnn, model_args=(x, y), render_distributions=True).source
    for name in bnn.sites:
        for site in (name, f"{name}_support", f"{name}_precision"):
            assert site in source
    assert "Categorical" in source
    assert "MarkovChainSupport" in source


def fit_stock(bnn: ptv.BayesianNet, x: Tensor, y: Tensor, steps: int) -> list[float]:
    """Stock Pyro, as in its tutorials, with parameters local to their modules."""
    with pyro.settings.context(module_local_params=True):
        guide = AutoNormal(bnn, init_scale=0.02)
        svi = SVI(bnn, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
        return [svi.step(x, y) for _ in range(steps)]


def test_stock_svi_trains_weights_and_points_and_leaves_no_global_parameter() -> None:
    x = torch.randn(60, 4)
    y = (x[:, 0] > 0).long()
    bnn = classifier()
    before = {name: point.detach().clone() for name, point in bnn.points.items()}
    losses = fit_stock(bnn, x, y, steps=40)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert all(not torch.equal(point, before[name]) for name, point in bnn.points.items())
    assert list(pyro.get_param_store().keys()) == []


def test_stock_svi_without_local_parameters_stores_only_its_guides() -> None:
    bnn, (x, y) = classifier(), batch()
    svi = SVI(bnn, AutoNormal(bnn), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(x, y)
    assert all(name.startswith("AutoNormal.") for name in pyro.get_param_store().keys())  # noqa: SIM118
    pyro.clear_param_store()


def test_two_nets_with_equal_names_share_no_parameter() -> None:
    x, y = batch()
    net = mlp()
    first, second = classifier(net), classifier(net)
    fit_stock(first, x, y, steps=3)
    for name, point in second.points.items():
        assert torch.equal(point, net.get_parameter(name.removeprefix("net.")))
        assert not torch.equal(point, first.points[name])


def test_start_values_are_copies_that_a_guide_may_train() -> None:
    bnn = classifier()
    for site in bnn.sites.values():
        assert site.init is not None
        site.init.zero_()
    assert all(float(site.init.abs().sum()) > 0 for site in bnn.sites.values())  # type: ignore
    assert all(float(p.detach().abs().sum()) > 0 for p in bnn.net.parameters())


def test_stock_nuts_samples_the_posterior() -> None:
    from pyro.infer import MCMC, NUTS

    bnn = ptv.lift(
        nn.Linear(1, 1, bias=False), likelihood=likelihoods.Gaussian(1.0, learn=False), prior=NORMAL
    )
    x, y = torch.ones(20, 1), torch.full((20,), 2.0)
    chain = MCMC(NUTS(bnn), num_samples=60, warmup_steps=30, disable_progbar=True)
    chain.run(x, y)
    draws = chain.get_samples()["weight"].flatten()
    precision = 20 + 1 / 0.5**2  # conjugate: Normal(40 / precision, 1 / precision)
    assert abs(float(draws.mean()) - 40 / precision) < 5 / math.sqrt(precision * 20)


def test_a_hand_written_model_draws_its_weights_from_priors() -> None:
    prior = priors.ThreeLayer(support=supports.Chain(0.2, 3.0))
    start = torch.zeros(5)

    def model(x: Tensor, y: Tensor | None = None) -> Tensor:
        weight = prior.sample("w", (5,), init=start)
        noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(x @ weight, noise), obs=y)

    x = torch.randn(8, 5)
    found = discover_weights(model, x)
    assert list(found) == ["w"]
    assert found["w"].prior is prior
    assert found["w"].shape == (5,)
    assert found["w"].init is start
    draws = Predictive(model, num_samples=3)(x)
    assert draws["w_support"].shape == (3, 1, 5)  # Pyro keeps one dim for the data plate
    turbo = ptv.TurboVBI(model)
    losses = [turbo.step(x, torch.zeros(8)) for _ in range(2)]
    assert all(math.isfinite(loss) for loss in losses)
    assert list(turbo.sites) == ["w"]


def test_dict_batches_feed_a_net_with_two_inputs() -> None:
    net = TwoInputs()
    bnn = classifier(net)
    x = {"a": torch.randn(6, 2), "b": torch.randn(6, 4)}
    torch.testing.assert_close(bnn.output({}, x), net(x["a"], x["b"]))
    trace = poutine.trace(bnn).get_trace(x, torch.randint(3, (6,)))
    assert trace.nodes["y"]["fn"].batch_shape == (6,)


def test_double_nets_stay_double() -> None:
    bnn = classifier(mlp().double(), priors.ThreeLayer(support=supports.Chain()))
    trace = poutine.trace(bnn).get_trace(torch.randn(6, 4).double())
    assert trace.nodes["0.weight"]["value"].dtype == torch.float64
    assert trace.nodes["0.weight_precision"]["value"].dtype == torch.float64


def test_a_model_that_has_run_can_be_copied_and_pickled() -> None:
    bnn, (x, y) = classifier(), batch()
    bnn(x, y)
    again = pickle.loads(pickle.dumps(bnn))
    assert torch.equal(again.output({}, x), bnn.output({}, x))
    copied = copy.deepcopy(bnn)
    with torch.no_grad():
        copied.points["net.0.bias"].add_(1.0)
    assert not torch.equal(copied.output({}, x), bnn.output({}, x))
    losses = fit_stock(bnn, x, y, steps=2)
    assert all(map(math.isfinite, losses))


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"net": 3}, "net is not a module; given: int; accepted: a torch.nn.Module"),
        (
            {"likelihood": "gaussian"},
            "likelihood is of the wrong kind; given: gaussian; accepted: "
            "likelihoods.Categorical(), Bernoulli(), Gaussian(), Poisson()",
        ),
        (
            {"prior": "normal"},
            "'default' is given something that is not a prior; given: normal; accepted: "
            "an object of pyro_turbovbi.priors, or None to train as a point",
        ),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    good = {"net": mlp(), "likelihood": likelihoods.Categorical(), "prior": NORMAL}
    with pytest.raises(InvalidArgumentError) as error:
        ptv.lift(**(good | arguments))  # type: ignore[arg-type]
    assert str(error.value) == message


def test_lazy_and_broken_nets_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="'weight' of a lazy module has no shape yet"):
        classifier(nn.LazyLinear(3))
    net = mlp()
    with torch.no_grad():
        net[2].bias[1] = float("nan")
    with pytest.raises(InvalidDataError, match=r"'2\.bias' of the net contains NaN or infinite"):
        classifier(net)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UnsupportedError, match="half precision, too coarse for a posterior"):
        ptv.lift(nn.Linear(2, 1).to(dtype), likelihood=likelihoods.Gaussian(), prior=NORMAL)


def test_weights_under_parametrisations_are_named() -> None:
    def net() -> nn.Sequential:
        return nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 3))

    with pytest.warns(TurboVBIWarning, match=r"^'0\.weight': made by a parametrisation"):
        assert list(classifier(net()).sites) == ["2.weight"]
    chosen = priors.by_site({"0.parametrizations.weight.original1": NORMAL}, default=NORMAL)
    assert len(classifier(net(), chosen).sites) == 2
    assert list(classifier(net(), priors.by_site({"2.weight": NORMAL})).sites) == ["2.weight"]


def test_layers_that_cannot_be_copied_are_refused() -> None:
    net = mlp()
    layer = net[0]
    value = layer.weight.detach() * nn.Parameter(torch.ones(()))
    del layer.weight
    layer.weight = value
    with pytest.raises(UnsupportedError, match=r"given: 0\.weight; .*parametrizations"):
        classifier(net)
