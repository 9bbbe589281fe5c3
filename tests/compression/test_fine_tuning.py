"""Fine-tuning against closed forms, enumeration, and its own promises."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from pyro_turbovbi import likelihoods
from pyro_turbovbi.batches import TransformedTensors
from pyro_turbovbi.compression import Compressed, FineTune, compress, fine_tune, load
from pyro_turbovbi.compression._tuning import Objective, Points, nll, silence
from pyro_turbovbi.compression.batch_statistics import batch_norms, with_statistics_of
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    UnsupportedError,
)
from pyro_turbovbi.lift import lift
from pyro_turbovbi.likelihoods import Likelihood
from tests.compression.graph_nets import GPT, ResidualMLP, masks_with_dead_units, tokens
from tests.compression.nets import mlp, random_masks, randomise

LIKELIHOODS: dict[str, tuple[Likelihood, int]] = {
    "categorical": (likelihoods.Categorical(), 3),
    "bernoulli": (likelihoods.Bernoulli(), 1),
    "gaussian": (likelihoods.Gaussian(2.0), 1),
    "known noise": (likelihoods.Gaussian(0.5, learn=False), 1),
    "heteroscedastic": (likelihoods.Gaussian(heteroscedastic=True), 2),
    "poisson": (likelihoods.Poisson(), 1),
}


def drawn(net: nn.Module, likelihood: Likelihood, points: int, seed: int = 0) -> Any:
    """Data that a network under a likelihood draws."""
    torch.manual_seed(seed)
    x = torch.randn(points, 6)
    with torch.no_grad():
        return x, likelihood.distribution(net(x)).sample()


def small_net(outputs: int = 3, seed: int = 0, **options: Any) -> tuple[Compressed, nn.Module]:
    """A cut network, and the network before."""
    torch.manual_seed(seed)
    net = mlp(6, 12, outputs)
    for parameter in net.parameters():
        parameter.data *= 2.5  # so that targets say something about inputs
    masks = {"0.weight": torch.rand(12, 6) < 0.5, "2.weight": torch.rand(outputs, 12) < 0.6}
    x = torch.randn(20, 6)
    return compress(net, masks, x, measure_latency=False, **options), net


def loss_of(module: nn.Module, likelihood: Likelihood, data: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        output = module(data[0])
        target = likelihood.prepare(data[1], output)
        return -float(likelihood.distribution(output).log_prob(target).double().mean())


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("likelihood", "outputs"), LIKELIHOODS.values(), ids=list(LIKELIHOODS))
def test_every_likelihood_gains_and_keeps_its_zeros(likelihood: Likelihood, outputs: int) -> None:
    small, net = small_net(outputs)
    train, validation = (drawn(net, likelihood, 200, seed) for seed in (1, 2))
    before = {name: p.clone() for name, p in small.module.state_dict().items()}
    noise = {name: p.clone() for name, p in likelihood.state_dict().items()}
    settings = FineTune(epochs=8, lr=0.03, batch_size=50)
    tuned = fine_tune(small, train, likelihood, settings=settings, validation=validation)
    record = tuned.report.fine_tuning
    assert record is not None
    assert record.kept
    assert record.loss_before == pytest.approx(loss_of(small.module, likelihood, validation))
    assert tuned.likelihood is not None
    assert record.loss_after == pytest.approx(loss_of(tuned.module, tuned.likelihood, validation))
    assert record.loss_after < record.loss_before
    for name, mask in tuned.masks.items():
        weight = tuned.module.get_parameter(tuned.names.get(name, name))
        assert torch.equal(weight != 0, mask)
    assert all(torch.equal(p, before[name]) for name, p in small.module.state_dict().items())
    assert all(torch.equal(p, noise[name]) for name, p in likelihood.state_dict().items())


def test_gradients_of_pruned_weights_are_exactly_zero() -> None:
    small, net = small_net()
    likelihood = likelihoods.Categorical()
    model = lift(small.module, likelihood=likelihood, prior=None).eval()
    Objective(0.0, {}, {})(model, Points(*drawn(net, likelihood, 50))).backward()
    masks = {small.names.get(name, name): mask for name, mask in small.masks.items()}
    gradients = {name: model.net.get_parameter(name).grad for name in masks}
    loud = {name: gradient.clone() for name, gradient in gradients.items() if gradient is not None}
    silence(model.net, masks)
    for name, mask in masks.items():
        gradient = model.net.get_parameter(name).grad
        assert gradient is not None
        assert bool((loud[name][~mask] != 0).any())
        assert torch.equal(gradient, torch.where(mask, loud[name], 0.0))
        assert bool((gradient[mask] != 0).any())


def linear_case() -> tuple[Compressed, Tensor, Tensor, Tensor]:
    """A linear network, half of whose weights are cut; inputs, targets, and the mask."""
    torch.manual_seed(3)
    x = torch.randn(80, 6)
    y = x @ torch.randn(6, 2) + 0.5 + 0.3 * torch.randn(80, 2)
    mask = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 1, 1]]).bool()
    scales = {"weight": 0.05 + 0.2 * torch.rand(2, 6), "bias": torch.full((2,), 0.1)}
    small = compress(nn.Linear(6, 2), {"weight": mask}, x, scales=scales, measure_latency=False)
    return small, x, y, mask


def solve(x: Tensor, y: Tensor, mask: Tensor, precision: Tensor, mean: Tensor) -> Tensor:
    """Least squares restricted to a support, a row of [weights, bias] for every output.

    Minimises |y - A w|^2 / 2 + sum precision (w - mean)^2 / 2 over the kept entries.
    """
    design = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    rows = []
    for target, kept, tau, m in zip(y.T.double(), mask, precision, mean, strict=True):
        keep = torch.cat([kept, torch.ones(1).bool()])
        a, tau, m = design[:, keep], tau[keep].double(), m[keep].double()
        row = torch.zeros(7).double()
        row[keep] = torch.linalg.solve(a.T @ a + tau.diag(), a.T @ target + tau * m)
        rows.append(row)
    return torch.stack(rows)


def linear_layer(module: nn.Module) -> tuple[Tensor, Tensor]:
    (layer,) = [each for each in module.modules() if isinstance(each, nn.Linear)]
    return layer.weight.detach(), layer.bias.detach()


def test_a_linear_network_ends_at_the_least_squares_on_its_support() -> None:
    small, x, y, mask = linear_case()
    likelihood = likelihoods.Gaussian(3.0)
    settings = FineTune(epochs=150, lr=0.1, batch_size=80)
    # Judged on what is trained on, so that the best is the optimum.
    tuned = fine_tune(small, (x, y), likelihood, settings=settings, validation=(x, y))
    expected = solve(x, y, mask, torch.zeros(2, 7), torch.zeros(2, 7))
    read = mask.any(0)
    weight, bias = linear_layer(tuned.module)
    torch.testing.assert_close(weight.double(), expected[:, :6][:, read], atol=2e-3, rtol=0)
    torch.testing.assert_close(bias.double(), expected[:, 6], atol=2e-3, rtol=0)
    residual = y.double() - torch.cat([x, torch.ones(80, 1)], 1).double() @ expected.T
    assert isinstance(tuned.likelihood, likelihoods.Gaussian)
    assert tuned.likelihood.scale == pytest.approx(float(residual.square().mean().sqrt()), rel=1e-3)
    assert likelihood.scale == pytest.approx(3.0)


def test_the_pull_leads_to_the_ridge_around_the_posterior_mean() -> None:
    small, x, y, mask = linear_case()
    noise, pull = 0.5, 0.7
    weight, bias = linear_layer(small.module)
    read = mask.any(0)
    mean, scale = torch.zeros(2, 7), torch.full((2, 7), torch.inf)
    mean[:, :6][:, read], mean[:, 6] = weight, bias
    for name, tensor in small.scales.items():
        columns = torch.arange(7)[:6][read] if name.endswith("weight") else 6
        scale[:, columns] = tensor
    precision = pull * noise**2 / scale.square()
    expected = solve(x, y, mask, torch.where(torch.isfinite(precision), precision, 0.0), mean)
    # Targets that the expected weights predict: the best candidate is the one next to them.
    judge = (x, (torch.cat([x, torch.ones(80, 1)], 1).double() @ expected.T).float())
    likelihood = likelihoods.Gaussian(noise, learn=False)
    settings = FineTune(epochs=150, lr=0.1, batch_size=80, pull=pull)
    tuned = fine_tune(small, (x, y), likelihood, settings=settings, validation=judge)
    weight, bias = linear_layer(tuned.module)
    torch.testing.assert_close(weight.double(), expected[:, :6][:, read], atol=2e-3, rtol=0)
    torch.testing.assert_close(bias.double(), expected[:, 6], atol=2e-3, rtol=0)
    free = solve(x, y, mask, torch.zeros(2, 7), mean)
    assert (free - expected).abs().max() > 0.01, "the pull matters"


@pytest.mark.parametrize("kind", ["categorical", "bernoulli"])
def test_the_loss_under_soft_targets_is_the_expected_one_over_all_classes(kind: str) -> None:
    likelihood, outputs = LIKELIHOODS[kind]
    torch.manual_seed(0)
    output = torch.randn(7, outputs).double()
    soft = likelihood.mean(torch.randn(7, outputs).double())
    probs = soft if outputs > 1 else torch.cat([1 - soft, soft], 1)
    classes = range(probs.shape[1])
    expected = sum(probs[:, c] * nll(likelihood, output, torch.full((7,), c)) for c in classes)
    torch.testing.assert_close(nll(likelihood, output, soft), expected)
    model = lift(nn.Identity(), likelihood=likelihood, prior=None)
    y = torch.randint(0, len(classes), (7,))
    mixed = Objective(0.3, {}, {})(model, Points(output, y, soft))
    labels = nll(likelihood, output, y).mean()
    torch.testing.assert_close(mixed, 0.7 * labels + 0.3 * expected.mean())


def test_soft_targets_alone_teach_the_network_what_the_teacher_knows() -> None:
    torch.manual_seed(0)
    teacher, likelihood = nn.Linear(6, 3), likelihoods.Categorical()
    x = torch.randn(300, 6)
    soft = teacher(x).softmax(1).detach()
    small = compress(nn.Linear(6, 3), {}, x, measure_latency=False)
    settings = FineTune(epochs=40, lr=0.15, batch_size=300, distil=1.0)
    wrong = torch.randint(0, 3, (300,))  # labels play no part
    many = x.repeat(50, 1)
    judge = (many, likelihood.distribution(teacher(many)).sample())
    tuned = fine_tune(
        small, (x, wrong), likelihood, settings=settings, validation=judge, soft_targets=soft
    )
    start = (small.module(x).softmax(1) - soft).abs().mean()
    assert (tuned.module(x).softmax(1) - soft).abs().mean() < 0.1 * start


@pytest.mark.parametrize("lr", [1e-3, 0.3, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_never_worse_on_the_validation_data(lr: float, seed: int) -> None:
    likelihood = likelihoods.Gaussian(1.0)
    small, net = small_net(1, seed)
    train, judge = (drawn(net, likelihood, 40, seed=s) for s in (seed, seed + 10))
    settings = FineTune(epochs=3, lr=lr, batch_size=10, seed=seed)
    tuned = fine_tune(small, train, likelihood, settings=settings, validation=judge)
    record = tuned.report.fine_tuning
    assert record is not None
    assert record.loss_after == min(record.losses.values())
    assert list(record.losses) == ["cut", "noise", "epoch 1", "epoch 2", "epoch 3"]
    assert tuned.likelihood is not None
    assert loss_of(tuned.module, tuned.likelihood, judge) == pytest.approx(record.loss_after)
    assert record.loss_after <= loss_of(small.module, likelihood, judge) + 1e-9
    assert record.kept != same_weights(small.module, tuned.module) or record.best == "noise"


def test_what_gains_nothing_gives_the_same_network() -> None:
    small, _ = small_net()
    likelihood = likelihoods.Categorical()
    x = torch.randn(60, 6)
    judge = (x, small.module(x).argmax(1))
    opposite = (x, small.module(x).argmin(1))
    tuned = fine_tune(small, opposite, likelihood, validation=judge)
    record = tuned.report.fine_tuning
    assert record is not None
    assert (record.best, record.kept, record.epochs) == ("cut", False, 20)
    assert record.loss_after == record.loss_before
    assert same_weights(small.module, tuned.module)
    assert "fine-tuning: not kept, nothing is below the validation loss" in str(tuned.report)


def shifted_case(likelihood: Likelihood) -> tuple[Compressed, tuple[Tensor, Tensor]]:
    """A fitted network, and its data with all inputs one larger, which batch norms can undo."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    with torch.no_grad():
        net[0].weight.mul_(2.0)
        net[4].weight.mul_(4.0)
    net = with_statistics_of(net, torch.randn(1500, 6))
    x, y = drawn(net, likelihood, 1500)
    return compress(net, {}, x[:9], measure_latency=False), (x + 1.0, y)


def test_batch_norms_get_the_statistics_of_the_training_data_if_that_helps() -> None:
    likelihood = likelihoods.Categorical()
    small, train = shifted_case(likelihood)
    tuned = fine_tune(
        small, train, likelihood, settings=FineTune(epochs=1, lr=1e-12), validation=train
    )
    record = tuned.report.fine_tuning
    assert record is not None
    assert list(record.losses) == ["cut", "batch statistics", "epoch 1"]
    assert record.losses["batch statistics"] < record.losses["cut"]
    (norm,), (expected,) = (
        batch_norms(net) for net in (tuned.module, with_statistics_of(small.module, train[0]))
    )
    assert torch.equal(norm.running_mean, expected.running_mean)  # type: ignore[arg-type]
    assert torch.equal(norm.running_var, expected.running_var)  # type: ignore[arg-type]
    assert not tuned.module.training
    # Judged on data without the shift, the statistics of the training data are a loss.
    unshifted = (train[0] - 1.0, train[1])
    tuned = fine_tune(
        small, train, likelihood, settings=FineTune(epochs=1, lr=1e-12), validation=unshifted
    )
    assert same_weights(small.module, tuned.module)


@pytest.mark.parametrize("case", ["residual", "transformer"])
def test_networks_of_any_shape(case: str) -> None:
    net: nn.Module
    torch.manual_seed(0)
    if case == "residual":
        net, x = randomise(ResidualMLP(norm=True), 0), torch.randn(40, 6)
        masks, likelihood = random_masks(net, 1), likelihoods.Gaussian(1.0)
        y = torch.randn(40, 3)
    else:
        net, x = GPT(), tokens(40)
        masks, likelihood = masks_with_dead_units(net, 0), likelihoods.Categorical()
        y = net(x).argmax(-1)
    small = compress(net, masks, x, measure_latency=False)
    tuned = fine_tune(small, (x, y), likelihood, settings=FineTune(epochs=2), validation=(x, y))
    record = tuned.report.fine_tuning
    assert record is not None
    assert record.kept
    assert type(tuned.module) is type(small.module)
    for name, mask in tuned.masks.items():
        assert not tuned.module.get_parameter(tuned.names.get(name, name))[~mask].any()


def test_the_result_is_saved_quantised_and_described_as_before(tmp_path: Path) -> None:
    likelihood = likelihoods.Categorical()
    scales = {"0.weight": torch.full((12, 6), 0.1), "2.weight": torch.full((3, 12), 0.1)}
    small, net = small_net(scales=scales)
    train, judge = (drawn(net, likelihood, 200, seed) for seed in (1, 2))
    tuned = fine_tune(
        small, train, likelihood, settings=FineTune(epochs=5, lr=0.02), validation=judge
    )
    assert all(torch.equal(tuned.scales[name], s) for name, s in small.scales.items())
    assert all(torch.equal(tuned.masks[name], mask) for name, mask in small.masks.items())
    assert tuned.report.regularity == small.report.regularity
    assert tuned.save(tmp_path / "net.ptv") == tuned.report.bytes
    x = torch.randn(5, 6)
    assert torch.equal(load(tmp_path / "net.ptv")(x), tuned.module(x))
    rough = tuned.quantise(judge, tolerance=0.01)
    assert rough.save(tmp_path / "rough.ptv") == rough.report.bytes < tuned.report.bytes
    assert (rough.report.coding, tuned.report.coding) == ("compact", "plain")
    assert rough.likelihood is tuned.likelihood
    assert rough.report.fine_tuning == tuned.report.fine_tuning
    plain = tuned.report.to_dict()["fine_tuning"]
    assert isinstance(plain, dict)
    assert plain["kept"] is True
    assert "fine-tuning: validation loss" in repr(rough)
    with pytest.raises(InvalidArgumentError, match="rounded already; accepted: fine_tune first"):
        fine_tune(rough, train, likelihood)


def test_a_seed_gives_the_same_network_and_the_callers_state_stays() -> None:
    likelihood = likelihoods.Categorical()
    small, net = small_net()
    x, y = drawn(net, likelihood, 90)
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    state = torch.get_rng_state()
    one, same, other = (
        fine_tune(small, loader, likelihood, settings=FineTune(epochs=2, seed=seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert same_weights(one.module, same.module)
    assert not same_weights(one.module, other.module)


def test_without_validation_data_a_share_is_held_out() -> None:
    likelihood = likelihoods.Categorical()
    small, net = small_net()
    data = drawn(net, likelihood, 90)
    record = fine_tune(small, data, likelihood, settings=FineTune(epochs=1)).report.fine_tuning
    assert record is not None
    assert (record.num_train, record.num_validation, record.held_out) == (81, 9, True)
    tuned = fine_tune(small, data, likelihood, settings=FineTune(epochs=1), validation=data)
    record = tuned.report.fine_tuning
    assert record is not None
    assert (record.num_train, record.num_validation, record.held_out) == (90, 90, False)
    kept, held = Points(*data).split(0.3)
    rows = torch.cat([kept.x, held.x])
    assert len(held) == 27
    assert torch.equal(rows.sort(0).values, data[0].sort(0).values)
    assert len(torch.unique(rows, dim=0)) == 90


def test_random_views_are_drawn_anew_in_every_epoch() -> None:
    likelihood = likelihoods.Categorical()
    small, net = small_net()
    x, y = drawn(net, likelihood, 64)
    seen: list[Tensor] = []

    def view(batch: Tensor) -> Tensor:
        seen.append(batch)
        return batch + 0.1 * torch.randn_like(batch)

    settings = FineTune(epochs=3, batch_size=32)
    fine_tune(
        small, TransformedTensors(x, y, view), likelihood, settings=settings, validation=(x, y)
    )
    assert [len(batch) for batch in seen] == [32] * 6
    epoch = torch.cat(seen[:2])
    assert torch.equal(epoch.sort(0).values, x.sort(0).values)


def test_frozen_parameters_stay_as_they_are() -> None:
    torch.manual_seed(0)
    net, likelihood = mlp(6, 12, 3), likelihoods.Categorical()
    net[0].weight.requires_grad_(False)
    x = torch.randn(60, 6)
    residual = ResidualMLP()
    residual.stem.weight.requires_grad_(False)
    for case, frozen, free in (
        (net, "0.weight", "2.weight"),
        (residual, "stem.weight", "up.weight"),
    ):
        masks = {name: torch.rand(case.get_parameter(name).shape) < 0.5 for name in (frozen, free)}
        small = compress(case, masks, x, measure_latency=False)
        data = (x, small.module(x).argmin(1))
        tuned = fine_tune(small, data, likelihood, validation=data)
        stayed = [
            torch.equal(small.module.get_parameter(own), tuned.module.get_parameter(own))
            for own in (small.names.get(name, name) for name in (frozen, free))
        ]
        assert stayed == [True, False]
    for parameter in small.module.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InvalidArgumentError, match="no parameter of the network can be trained"):
        fine_tune(small, data, likelihood)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is out of range; given: 0; accepted: 1, 2, ..."),
        ({"batch_size": 0}, "batch_size is out of range"),
        ({"num_samples": 0}, "num_samples is out of range"),
        ({"lr": 0.0}, "lr is out of range; given: 0.0; accepted: a positive number"),
        ({"lr": math.nan}, "lr is out of range"),
        ({"pull": -1.0}, "pull is out of range"),
        ({"pull": math.inf}, "pull is out of range"),
        ({"distil": 1.1}, r"distil is out of range; given: 1.1; accepted: a share in \[0, 1\]"),
        ({"holdout": 1.0}, "holdout is out of range"),
        ({"holdout": 0.0}, "holdout is out of range"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        FineTune(**settings)


def test_what_does_not_fit_is_refused() -> None:
    small, net = small_net()
    likelihood = likelihoods.Categorical()
    x, y = drawn(net, likelihood, 30)
    soft = torch.full((30, 3), 1 / 3)

    def tune(data: Any = (x, y), how: Likelihood = likelihood, **options: Any) -> None:
        settings = FineTune(**options.pop("settings", {}))
        fine_tune(small, data, how, settings=settings, **options)

    with pytest.raises(UnsupportedError, match="soft targets are probabilities of classes"):
        tune(how=likelihoods.Gaussian(), settings={"distil": 0.5})
    with pytest.raises(UnsupportedError, match="no posterior standard deviations to pull with"):
        tune(settings={"pull": 1.0})
    with pytest.raises(InvalidArgumentError, match=r"belong together; given: distil=0.5, .*not "):
        tune(settings={"distil": 0.5})
    with pytest.raises(InvalidArgumentError, match="belong together"):
        tune(soft_targets=soft)
    with pytest.raises(ShapeError, match=r"do not fit .*given: \(29, 3\); accepted: \(30, 3\)"):
        tune(soft_targets=soft[1:], settings={"distil": 0.5})
    with pytest.raises(InvalidDataError, match="no probabilities"):
        tune(soft_targets=2 * soft + 1, settings={"distil": 0.5})
    with pytest.raises(InvalidDataError, match="one point cannot be both"):
        tune((x[:1], y[:1]))
    with pytest.raises(InvalidDataError, match="labels are out of range"):
        tune(validation=(x, y + 3))
    with pytest.raises(ShapeError, match="cannot take a batch of inputs"):
        tune(validation=(x[:, :2], y))
    with pytest.raises(InvalidDataError, match="NaN"):
        tune((x * torch.nan, y))
