"""Group priors: one scale or norm per input unit."""

from __future__ import annotations

from math import e, log

import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch import distributions as td

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError
from pyro_turbovbi.priors import GroupHorseshoe, GroupLasso, GroupNormalJeffreys, Moments, Prior

SCALED: list[Prior] = [GroupNormalJeffreys(), GroupHorseshoe()]
every_scaled = pytest.mark.parametrize("prior", SCALED, ids=["jeffreys", "horseshoe"])


def trace_of(prior: Prior, shape: tuple[int, ...]) -> poutine.Trace:
    init = torch.zeros(shape, dtype=torch.float64)
    return poutine.trace(lambda: prior.sample("w", shape, init=init)).get_trace()


@pytest.mark.parametrize(
    ("shape", "dim", "groups"),
    [
        ((5, 3), None, (1, 3)),
        ((5, 3), 0, (5, 1)),
        ((5, 3, 2, 2), None, (1, 3, 1, 1)),
        ((5, 3, 2, 2), -1, (1, 1, 1, 2)),
        ((5,), None, (5,)),
    ],
)
@pytest.mark.parametrize("kind", [GroupNormalJeffreys, GroupHorseshoe])
def test_there_is_one_scale_per_group(
    kind: type[Prior], shape: tuple[int, ...], dim: int | None, groups: tuple[int, ...]
) -> None:
    trace = trace_of(kind(dim=dim), shape)  # type: ignore[call-arg]
    site = "w_scale" if kind is GroupNormalJeffreys else "w_local_b"
    assert trace.nodes[site]["value"].shape == groups
    assert trace.nodes["w_raw"]["value"].shape == shape
    w = trace.nodes["w"]["value"]
    assert w.shape == shape
    ratio = w / trace.nodes["w_raw"]["value"]
    per_group = ratio
    for axis, size in enumerate(groups):
        if size == 1:
            per_group = per_group.narrow(axis, 0, 1)
    torch.testing.assert_close(ratio, per_group.expand(shape))


def test_jeffreys_density_inside_its_bounds() -> None:
    trace = trace_of(GroupNormalJeffreys(low=1e-8, high=1e8), (4, 3))
    z, raw = torch.tensor([[0.1, 1.0, -5.0]]).double(), trace.nodes["w_raw"]["value"]
    prior = trace.nodes["w_scale"]["fn"].log_prob(z)
    expected = -z.abs().log().sum() - 3 * log(2 * log(1e16))
    torch.testing.assert_close(prior, expected, rtol=1e-4, atol=1e-4)
    normal = td.Normal(torch.zeros(()).double(), 1.0).log_prob(raw).sum()
    torch.testing.assert_close(trace.nodes["w_raw"]["fn"].log_prob(raw), normal)


@pytest.mark.parametrize(("sites", "scale"), [("global", 0.3), ("local", 1.0)])
def test_split_half_cauchy_is_the_half_cauchy(sites: str, scale: float) -> None:
    """Density of x = sqrt(a b) by quadrature over ln a."""
    trace = trace_of(GroupHorseshoe(global_scale=0.3), (1, 1))
    laws = [trace.nodes[f"w_{sites}_{piece}"]["fn"] for piece in "ab"]
    gamma, inverse = (law.base_dist if isinstance(law, td.Independent) else law for law in laws)
    a = torch.linspace(-40.0, 6.0, 40_001, dtype=torch.float64).exp()
    x = torch.tensor([0.01, 0.1, 0.5, 1.0, 3.0, 30.0]).double()
    b = x[:, None].square() / a
    log_terms = gamma.log_prob(a.reshape(-1, 1, 1)).flatten() + inverse.log_prob(
        b.reshape(-1, 1, 1)
    ).reshape(b.shape)
    # p(x) = 2 x p(x^2), p(t) = int p(a) p(t / a) da / a, da = a d ln a
    density = 2 * x * torch.trapezoid(log_terms.exp(), a.log())
    oracle = td.HalfCauchy(torch.tensor(scale).double()).log_prob(x).exp()
    torch.testing.assert_close(density, oracle, rtol=1e-5, atol=0.0)


def test_draws_of_the_split_are_half_cauchy() -> None:
    trace = trace_of(GroupHorseshoe(), (1, 100_000))
    z2 = trace.nodes["w_local_a"]["value"] * trace.nodes["w_local_b"]["value"]
    for size in (0.1, 1.0, 10.0):
        expected = 2 / torch.pi * torch.tensor(size).atan().item()
        share = float((z2.sqrt() < size).double().mean())
        assert abs(share - expected) < 5 * (expected * (1 - expected) / 100_000) ** 0.5


@every_scaled
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 2), (5,)])
def test_training_starts_at_the_given_weights(prior: Prior, shape: tuple[int, ...]) -> None:
    for init in (0.2 * torch.randn(shape), torch.zeros(shape)):
        start = prior.start("w", init)
        torch.testing.assert_close(prior.weight("w", start), init)
        trace = trace_of(prior, shape)
        assert {n: v.shape for n, v in start.items()} == {
            n: trace.nodes[n]["value"].shape for n in trace.stochastic_nodes
        }


def test_jeffreys_prunes_groups_by_the_dropout_rate_of_their_scale() -> None:
    mean = torch.tensor([[1.0, 1.0, 0.0]])
    moments = {
        "w_scale": Moments(mean, torch.tensor([[e**-1.51, e**-1.49, 0.1]])),
        "w_raw": Moments(torch.zeros(2, 3), torch.ones(2, 3)),
    }
    kept = GroupNormalJeffreys().survivors("w", moments)
    assert kept is not None
    assert kept.tolist() == [[True, False, False]] * 2
    moments["w_scale"] = Moments(mean, torch.zeros(1, 3))
    assert GroupNormalJeffreys().survivors("w", moments) is None


def test_group_horseshoe_prunes_by_the_mode_of_the_scale() -> None:
    """The log-mode of z = sqrt(a b) under log-normal a and b is E[ln z] - Var(ln z)."""
    spread = torch.full((1, 4), 0.6)
    mean = torch.tensor([[2.0, -0.9, -1.1, 2.0]])
    wide = torch.tensor([[0.6, 0.6, 0.6, 4.0]])
    moments = {
        "w_local_a": Moments(mean, spread),
        "w_local_b": Moments(mean, wide),
        "w_raw": Moments(torch.zeros(2, 4), torch.ones(2, 4)),
    }
    modes = td.LogNormal(mean, ((spread**2 + wide**2) / 4).sqrt()).mode.log()
    kept = GroupHorseshoe().survivors("w", moments)
    assert kept is not None
    assert torch.equal(kept, (modes >= modes.max() - 3).expand(2, 4))
    assert kept[0].tolist() == [True, True, False, False]


def test_group_lasso_is_a_penalty_on_norms_and_prunes_by_them() -> None:
    prior = GroupLasso(strength=2.0)
    w = torch.tensor([[3.0, 0.01, 0.0], [4.0, 0.0, 0.06]]).double()
    model = poutine.condition(lambda: prior.sample("w", (2, 3), init=w), {"w": w})
    value = float(poutine.trace(model).get_trace().log_prob_sum())
    # a group of two: Z = 2 pi / strength^2
    assert value == pytest.approx(-2.0 * 5.07 - 3 * log(2 * torch.pi / 4.0))
    kept = prior.survivors("w", {"w": Moments(w, 0 * w)})
    assert kept.tolist() == [[True, False, True]] * 2  # 0.01 and 0.06 against 0.01 * 5
    zero = torch.zeros(2, 3)
    assert not prior.survivors("w", {"w": Moments(zero, zero)}).any()


def test_what_the_priors_are_for() -> None:
    assert GroupLasso().inference == {"map"}
    assert GroupHorseshoe().inference == {"vi", "mcmc"}
    assert GroupNormalJeffreys().inference == {"map", "vi", "mcmc"}


@pytest.mark.parametrize("prior", [*SCALED, GroupLasso()], ids=lambda p: type(p).__name__)
def test_priors_are_values(prior: Prior) -> None:
    assert prior == type(prior)()
    assert hash(prior) == hash(type(prior)())


def test_a_dimension_that_is_not_there() -> None:
    with pytest.raises(ShapeError) as error:
        GroupLasso(dim=2).sample("w", (3, 4))
    assert str(error.value) == (
        "weight 'w' has no dimension 2 for the groups of a GroupLasso prior; given: shape (3, 4); "
        "accepted: dim from -2 to 1"
    )
    with pytest.raises(ShapeError, match="accepted: a weight with dimensions"):
        GroupNormalJeffreys().sample("w", ())


@pytest.mark.parametrize(
    "build",
    [
        lambda: GroupLasso(strength=0.0),
        lambda: GroupHorseshoe(global_scale=-1.0),
        lambda: GroupNormalJeffreys(low=0.0),
        lambda: GroupNormalJeffreys(low=3.0, high=2.0),
        lambda: GroupHorseshoe(global_scale="small"),  # type: ignore[arg-type]
    ],
)
@pytest.mark.usefixtures("no_type_checks")
def test_numbers_out_of_range(build: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"prior (is|are) (out of range|in the wrong)"):
        build()  # type: ignore[operator]


def test_scales_do_not_leave_single_precision() -> None:
    """Four pieces of which the product would overflow."""
    like: Tensor = torch.ones(1, 1)
    values = {
        f"w_{n}": like * v
        for n, v in {"global_a": 1e-30, "global_b": 1e30, "local_a": 1e30, "local_b": 1e30}.items()
    }
    w = GroupHorseshoe().weight("w", values | {"w_raw": like * 1e-20})
    torch.testing.assert_close(w, like * 1e10)
