"""What can be done with a fit: draws, masks, cutting, hyper-parameters."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi._compress import _soft_targets
from pyro_turbovbi.compression import FineTune
from pyro_turbovbi.engines.turbo.settings import SpikeAnnealing
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    UnsupportedError,
)
from pyro_turbovbi.posterior import DiagonalPosterior
from pyro_turbovbi.priors.hyperparameters import declared
from tests.test_fit import data, model, run


def test_samples_have_the_posteriors_moments() -> None:
    fit = run(model(), data())
    draws = fit.sample(400)
    assert {name: draw.shape for name, draw in draws.items()} == {
        name: (400, *site.shape) for name, site in fit.bnn.sites.items()
    }
    mean, scale = fit.posterior.mean(), fit.posterior.scale()
    assert scale is not None
    for name, draw in draws.items():
        z = (draw - mean[name]) / scale[name]
        assert abs(float(z.std()) - 1.0) < 5 / (2 * z.numel()) ** 0.5
        assert abs(float(z.mean())) < 5 / z.numel() ** 0.5


def test_mean_net_carries_the_means_and_the_trained_points() -> None:
    bnn = model()
    fit = run(bnn, data())
    net = fit.mean_net()
    assert type(net) is nn.Sequential
    assert not net.training
    for name, value in fit.posterior.mean().items():
        assert torch.equal(net.get_parameter(name), value)
    for name, point in fit.bnn.points.items():
        assert torch.equal(net.get_parameter(name.removeprefix("net.")), point)
    x, _ = data()
    torch.testing.assert_close(net(x).detach(), fit.predict(x, num_samples=0).outputs[0])


def fixed(loc: dict[str, Tensor], scale: dict[str, Tensor], **rest: Any) -> ptv.Fit:
    """A fit whose posterior is given."""
    fit = run(model(priors.Normal()), data(), engine=engines.MAP(), epochs=1)
    fit.posterior = DiagonalPosterior(loc, scale, **rest)
    return fit


def test_masks_follow_the_support_or_a_share_of_the_ranking() -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = {"0.weight": (6, 4), "2.weight": (2, 6)}
    loc = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    scale = {n: torch.rand(s, generator=generator) + 0.1 for n, s in shapes.items()}
    probs = torch.rand(6, 4, generator=generator)
    fit = fixed(loc, scale, support={"0.weight": probs})
    masks = fit.masks()
    assert torch.equal(masks["0.weight"], probs > 0.5)
    assert masks["2.weight"].all(), "no support layer: every weight stays"
    assert masks["2.weight"].dtype == torch.bool
    assert torch.equal(fit.support_probs()["0.weight"], probs)
    ratio = torch.cat([(loc[n].abs() / scale[n]).flatten() for n in shapes])
    for keep in (0.1, 0.5, 1.0):
        kept = torch.cat([m.flatten() for m in fit.masks(keep).values()])
        assert int(kept.sum()) == round(keep * 36)
        assert ratio[kept].min() >= ratio[~kept].max() if keep < 1.0 else kept.all()
    points = fixed(loc, {n: torch.zeros(s) for n, s in shapes.items()})
    size = torch.cat([loc[n].abs().flatten() for n in shapes])
    kept = torch.cat([m.flatten() for m in points.masks(0.25).values()])
    assert set(size[kept].tolist()) == set(size.sort(descending=True).values[:9].tolist())


def test_masks_follow_the_rule_of_the_prior() -> None:
    fit = run(model(priors.LogUniform()), data(), engine=engines.SVI(), epochs=1)
    generator = torch.Generator().manual_seed(2)
    shapes = {"0.weight": (6, 4), "2.weight": (2, 6)}
    loc = {n: torch.randn(s, generator=generator) for n, s in shapes.items()}
    scale = {n: 3 * torch.rand(s, generator=generator) + 0.1 for n, s in shapes.items()}
    fit.posterior = DiagonalPosterior(loc, scale)
    masks = fit.masks()
    for name in shapes:
        rate = (scale[name] / loc[name]).square().log()
        assert torch.equal(masks[name], rate < 3.0)
        assert 0 < int(masks[name].sum()) < masks[name].numel()
    support = {"0.weight": torch.zeros(6, 4)}
    fit.posterior = DiagonalPosterior(loc, scale, support)
    both = fit.masks()
    assert not both["0.weight"].any(), "a support layer decides where there is one"
    assert torch.equal(both["2.weight"], masks["2.weight"])


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, math.nan])
def test_keep_is_a_share(keep: float) -> None:
    fit = run(model(priors.Normal()), data(), engine=engines.MAP(), epochs=1)
    with pytest.raises(InvalidArgumentError) as error:
        fit.masks(keep)
    assert str(error.value) == (f"keep is out of range; given: {keep}; accepted: a share in (0, 1]")


def test_compress_cuts_to_the_masks_and_computes_the_same() -> None:
    x, y = data()
    fit = run(model(), (x, y), epochs=4)
    masked = fit.mean_net()
    masks = fit.masks(0.3)
    with torch.no_grad():
        for name, mask in masks.items():
            masked.get_parameter(name).mul_(mask)
    for source in ((x, y), x, DataLoader(TensorDataset(x, y), batch_size=16)):
        small = fit.compress(source, keep=0.3)
        torch.testing.assert_close(small.module(x), masked(x), rtol=1e-5, atol=1e-5)
    assert small.report.kept <= sum(int(mask.sum()) for mask in masks.values())
    with pytest.raises(InvalidArgumentError) as error:
        fit.compress()
    assert str(error.value) == (
        "compress needs inputs on which the smaller net is verified; "
        "accepted: the training or test data, or a tensor of inputs"
    )


def test_compress_hands_the_posteriors_scales_on() -> None:
    x, y = data()
    whole = engines.Turbo(reduction=engines.ModelReduction(strength=0.0))  # no mean is zero
    fit = run(model(), (x, y), epochs=2, engine=whole)
    scale = fit.posterior.scale()
    assert scale is not None
    small = fit.compress(x, keep=1.0)
    kept = small.module.get_parameter("2.weight").detach() != 0
    columns = fit.mean_net().get_parameter("2.weight") != 0
    assert torch.equal(small.scales["2.weight"] != 0, kept)
    assert torch.equal(small.scales["2.weight"][kept], scale["2.weight"][columns])
    infinite = {name: torch.full_like(s, torch.inf) for name, s in scale.items()}
    fit.posterior = DiagonalPosterior(fit.posterior.mean(), infinite)
    assert fit.compress(x).scales == {}, "a law without a second moment"


def test_compress_hands_the_likelihood_on_with_its_noise() -> None:
    x = torch.randn(40, 4)
    likelihood = likelihoods.Gaussian(0.3)
    bnn = ptv.lift(nn.Linear(4, 1), likelihood=likelihood, prior=priors.Normal())
    fit = ptv.fit(bnn, (x, x[:, 0]), engine=engines.MAP(lr=0.1), epochs=2, progress=False)
    learned = fit.bnn.likelihood
    assert isinstance(learned, likelihoods.Gaussian)
    small = fit.compress(x)
    assert isinstance(small.likelihood, likelihoods.Gaussian)
    assert small.likelihood is not learned
    assert small.likelihood.scale == learned.scale != 0.3
    how = small.quantise((x, x[:, 0]), tolerance=0.01).quantisation
    assert how is not None
    exact = fit.predict(x, num_samples=0).log_prob(x[:, 0]).mean().detach()
    assert how.loss_exact == pytest.approx(-float(exact), rel=1e-5)


def separable(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator)
    return x, (x[:, 0] + 0.5 * x[:, 1] > 0).long()


@pytest.mark.parametrize(
    "settings", [{}, {"distil": 0.5, "num_samples": 3}, {"pull": 0.01}], ids=str
)
def test_compress_trains_the_survivors_further(settings: dict[str, Any]) -> None:
    train, judge = separable(120, 1), separable(80, 2)
    fit = run(model(), train, epochs=3)
    how = FineTune(epochs=4, lr=0.02, batch_size=30, **settings)
    small = fit.compress(train, keep=0.5)
    state = torch.get_rng_state()
    tuned, again = (
        fit.compress(train, keep=0.5, fine_tune=how, validation=judge) for _ in range(2)
    )
    assert torch.equal(state, torch.get_rng_state())
    record = tuned.report.fine_tuning
    assert record is not None
    assert record == again.report.fine_tuning
    assert (record.num_train, record.num_validation, record.held_out) == (120, 80, False)
    with torch.no_grad():
        before, after = (
            float(nn.functional.cross_entropy(net(judge[0]), judge[1]))
            for net in (small.module, tuned.module)
        )
    assert record.loss_before == pytest.approx(before, rel=1e-5)
    assert record.loss_after == pytest.approx(after, rel=1e-5)
    assert record.loss_after < record.loss_before
    assert all(torch.equal(mask, small.masks[name]) for name, mask in tuned.masks.items())
    assert small.report.fine_tuning is None


def test_soft_targets_are_the_predictive_means_at_the_training_points() -> None:
    train = separable(40, 1)
    fit = run(model(), train, epochs=2)
    how = FineTune(distil=1.0, num_samples=5, seed=3)
    soft = _soft_targets(fit, train[0], how)
    torch.manual_seed(3)
    expected = torch.stack([fit.predict(train[0], 1).mean for _ in range(5)]).mean(0)
    torch.testing.assert_close(soft, expected)
    torch.testing.assert_close(soft.sum(1), torch.ones(40))


def test_fine_tuning_holds_points_out_and_takes_units_in_another_order() -> None:
    train = separable(120, 1)
    fit = run(model(), train, epochs=3)
    loader = DataLoader(TensorDataset(*train), batch_size=16, shuffle=True)
    small = fit.compress(loader, keep=0.5, reorder=True, fine_tune=True)
    record = small.report.fine_tuning
    assert record is not None
    assert (record.epochs, record.num_train, record.num_validation) == (20, 108, 12)
    assert record.held_out


def test_fine_tuning_refuses_what_does_not_fit_before_anything_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = data()
    fit = run(model(), (x, y))
    point = run(model(priors.Normal()), (x, y), engine=engines.MAP(), epochs=1)
    monkeypatch.setattr("pyro_turbovbi._compress.compress", None)
    with pytest.raises(InvalidArgumentError, match="validation data are for fine-tuning"):
        fit.compress((x, y), validation=(x, y))
    with pytest.raises(InvalidArgumentError, match="needs targets; given: a tensor of inputs"):
        fit.compress(x, fine_tune=True)
    with pytest.raises(InvalidDataError, match="labels are out of range"):
        fit.compress((x, y), fine_tune=True, validation=(x, y + 7))
    with pytest.raises(ShapeError, match="cannot take a batch of inputs"):
        fit.compress((x, y), fine_tune=True, validation=(x[:, :3], y))
    with pytest.raises(UnsupportedError, match="no posterior standard deviations"):
        point.compress((x, y), fine_tune=FineTune(pull=0.1))


def test_declared_hyperparameters_are_reported_exactly() -> None:
    prior = priors.by_site(
        {
            "0.weight": priors.ThreeLayer(
                supports.Chain(0.3, 3.0), dist.Gamma(2.0, 8.0), dist.Gamma(4.0, 0.25)
            ),
            "2.weight": priors.Normal(0.5),
        }
    )
    for engine in (engines.Turbo(), engines.Turbo(kl_weight=1.0, start="active")):
        fit = run(model(prior), data(), engine=engine)
        assert fit.learned == ()
        hyper = fit.hyperparameters()
        p01 = (1 / 3.0) * 0.3 / (1 - 0.3)
        assert hyper == {
            "0.weight": {
                "density": pytest.approx(0.3, rel=1e-15),
                "p01": p01,
                "p10": 1 / 3.0,
                "mean_run": 3.0,
                "active_concentration": 2.0,
                "active_rate": 8.0,
                "inactive_concentration": 4.0,
                "inactive_rate": 0.25,
            },
            "2.weight": {"scale": 0.5},
        }


def test_learned_hyperparameters_are_those_of_the_prior_that_made_the_data() -> None:
    """400 noisy looks at weights from a chain, an identity design: EM finds chain and slab."""
    truth = supports.Chain(density=0.3, mean_run=6.0)
    prior = priors.ThreeLayer(
        supports.Chain(density=0.1, mean_run=2.0), dist.Gamma(1.0, 0.5), dist.Gamma(20.0, 2e-3)
    )
    units, inputs = 60, 100
    support = truth.distribution(torch.Size([units, inputs])).sample()
    slab = dist.Gamma(1.0, 4.0).sample(support.shape)  # typical scale 2
    spike = dist.Gamma(20.0, 2e-3).sample(support.shape)  # typical scale 0.01
    precision = torch.where(support > 0, slab, spike)
    weights = torch.randn(units, inputs) / precision.sqrt()
    x = torch.eye(inputs)
    y = weights.T + 0.02 * torch.randn(inputs, units)
    net = nn.Linear(inputs, units, bias=False)
    bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(0.02, learn=False), prior=prior)
    engine = engines.Turbo(
        weights="exact", learn_hyper=True, damping=0.0, annealing=SpikeAnnealing(until=0.3)
    )
    fit = run(bnn, (x, y), engine=engine, epochs=60)
    assert fit.learned == ("weight",)
    found, active = fit.hyperparameters()["weight"], support > 0
    switches = (~active[:, :-1] & active[:, 1:]).sum() / (~active[:, :-1]).sum()
    stops = (active[:, :-1] & ~active[:, 1:]).sum() / active[:, :-1].sum()
    # What the drawn support itself says, and what it was drawn from.
    assert found["density"] == pytest.approx(float(support.mean()), abs=0.01)
    assert found["density"] == pytest.approx(0.3, abs=0.04)
    assert found["p01"] == pytest.approx(float(switches), rel=0.05)
    assert found["p10"] == pytest.approx(float(stops), rel=0.05)
    assert found["mean_run"] == pytest.approx(6.0, rel=0.15)
    assert found["active_rate"] == pytest.approx(4.0, rel=0.1)
    assert found["active_concentration"] == 1.0
    assert found["inactive_rate"] == pytest.approx(2e-3)
    assert f"learned density={found['density']:.4g}, p01={found['p01']:.4g}" in repr(fit)
    assert "inactive_rate" not in repr(fit), "what has not changed"


def test_a_fit_describes_itself() -> None:
    fit = run(model(), data(), seed=3)
    first, *sites = repr(fit).splitlines()
    assert first.startswith("Fit by turbo: 2 epochs of 48 points in ")
    assert first.endswith(f"ELBO {fit.elbo:,.1f} nats (bound)")
    share = float((fit.support_probs()["0.weight"] > 0.5).double().mean())
    assert sites[0] == (
        "  0.weight: 6x4 under ThreeLayer(support=Chain(density=0.3, mean_run=3.0, dim=None)); "
        f"{share:.2%} left"
    )
    point = run(model(priors.Normal()), data(), engine=engines.MAP())
    assert "ELBO" not in repr(point)
    assert repr(point).splitlines()[1] == "  0.weight: 6x4 under Normal(scale=0.1)"
    early = run(model(), data(), engine=engines.Turbo(learn_hyper=True), epochs=1)
    early.posterior = dataclasses.replace(
        early.posterior, hyperparameters={"0.weight": declared(early.bnn.sites["0.weight"])}
    )
    assert repr(early).splitlines()[1].endswith("left; learned nothing yet")
