"""The one training loop and its result."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, SiteError
from pyro_turbovbi.training import start_digest
from tests.terminals import Terminal

THREE_LAYER = priors.ThreeLayer(support=supports.Chain(0.3, 3.0))
ENGINES = {
    "turbo": (engines.Turbo(), THREE_LAYER),
    "svi": (engines.SVI(lr=0.01), priors.Normal(1.0)),
    "map": (engines.MAP(lr=0.01), priors.Normal(1.0)),
}
every_engine = pytest.mark.parametrize(("engine", "prior"), ENGINES.values(), ids=list(ENGINES))


def data(rows: int = 48) -> tuple[Tensor, Tensor]:
    """Two classes that the first of four features tells apart."""
    x = torch.randn(rows, 4)
    return x, (x[:, 0] > 0).long()


def model(prior: priors.Prior = THREE_LAYER) -> ptv.BayesianNet:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)


def run(bnn: ptv.BayesianNet, source: Any, **options: Any) -> ptv.Fit:
    defaults: dict[str, Any] = {"epochs": 2, "batch_size": 16, "progress": False}
    return ptv.fit(bnn, source, **(defaults | options))


def same(first: ptv.Fit, second: ptv.Fit) -> bool:
    x, _ = data(5)
    outputs = []
    for fit in (first, second):
        torch.manual_seed(3)
        outputs.append(fit.predict(x, num_samples=2).outputs)
    return torch.equal(*outputs) and first.history.elbo == second.history.elbo


class Items(Dataset[dict[str, Any]]):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.x[index], "y": int(self.y[index])}


@pytest.mark.parametrize(
    "case",
    [
        (engines.Turbo(), THREE_LAYER, 30),
        (engines.SVI(lr=0.03), priors.Normal(3.0), 30),
        (engines.MAP(lr=0.03), priors.Normal(3.0), 30),
    ],
    ids=["turbo", "svi", "map"],
)
def test_a_tiny_problem_is_learned(case: tuple[Any, priors.Prior, int]) -> None:
    engine, prior, epochs = case
    fit = run(model(prior), data(160), engine=engine, epochs=epochs)
    test = data(200)
    metrics = fit.evaluate(test)
    assert metrics.error is not None
    assert metrics.error < 0.12
    assert metrics.nll < 0.6 * math.log(2)


@every_engine
def test_same_seed_same_bits_and_another_seed_another_run(engine: Any, prior: priors.Prior) -> None:
    bnn, source = model(prior), data()
    first = run(bnn, source, engine=engine, seed=5)
    torch.manual_seed(99)
    assert same(first, run(bnn, source, engine=engine, seed=5))
    assert not same(first, run(bnn, source, engine=engine, seed=6))


@every_engine
def test_the_callers_random_state_and_model_are_untouched(engine: Any, prior: priors.Prior) -> None:
    bnn, source = model(prior).eval(), data()
    before = copy.deepcopy(bnn.state_dict())
    random_state = torch.get_rng_state()
    fit = run(bnn, source, engine=engine)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in bnn.state_dict().items())
    assert bnn.num_data is None
    assert not bnn.training
    assert all(p.grad is None for p in bnn.parameters())
    assert fit.bnn is not bnn
    assert fit.bnn.num_data == 48
    assert any(
        not torch.equal(point, bnn.points[name]) for name, point in fit.bnn.points.items()
    ), "the points of the copy were trained"


def test_every_kind_of_data_gives_the_same_fit() -> None:
    """In one batch there is no order, so all sources must agree to the last bit."""
    x, y = data()
    bnn = model(priors.Normal())
    sources: list[Any] = [
        (x, y),
        TensorDataset(x, y),
        DataLoader(TensorDataset(x, y), batch_size=48),
        DataLoader(Items(x, y), batch_size=48),
    ]
    engine = engines.MAP()
    losses = [
        run(bnn, s, engine=engine, batch_size=48).history.elbo for s in (*sources, Items(x, y))
    ]
    for loss in losses[1:]:
        assert loss == pytest.approx(losses[0], rel=1e-6)


def test_a_net_with_two_named_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(1, 2), nn.Linear(3, 2)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.a(left) + self.b(right)

    x, y = data()
    items = [
        {"left": row[:1], "right": row[1:], "y": label} for row, label in zip(x, y, strict=True)
    ]
    bnn = ptv.lift(Two(), likelihood=likelihoods.Categorical(), prior=THREE_LAYER)
    loader: DataLoader[Any] = DataLoader(items, batch_size=16)  # type: ignore[arg-type]
    fit = run(bnn, loader)
    named = {"left": x[:, :1], "right": x[:, 1:]}
    assert fit.predict(named, num_samples=2).outputs.shape == (2, 48, 2)
    assert fit.evaluate(loader).num_points == 48
    with pytest.raises(InvalidArgumentError, match="compress needs a net with one input"):
        fit.compress(loader)


def plain_buffers(net: nn.Module, x: Tensor, epochs: int) -> dict[str, Tensor]:
    plain = copy.deepcopy(net).train()
    for _ in range(epochs):
        for part in x.split(16):
            plain(part)
    return dict(plain.named_buffers())


@every_engine
def test_batch_norm_sees_every_batch_exactly_once(engine: Any, prior: priors.Prior) -> None:
    """Set-up, the checks, callbacks, the final ELBO and prediction must not count."""
    net = nn.Sequential(nn.BatchNorm1d(4, momentum=0.3), nn.Linear(4, 2))
    x, y = data()
    loader = DataLoader(TensorDataset(x + 3.0, y), batch_size=16)
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    fit = run(bnn, loader, engine=engine, callbacks=[lambda _, snapshot: snapshot().predict(x)])
    expected = plain_buffers(net, x + 3.0, epochs=2)
    torch.testing.assert_close(dict(fit.bnn.net.named_buffers()), expected)
    assert int(expected["0.num_batches_tracked"]) == 6
    fit.predict(x)
    fit.evaluate((x, y))
    fit.mean_net()(x)
    torch.testing.assert_close(dict(fit.bnn.net.named_buffers()), expected)


@every_engine
def test_callbacks_get_records_and_snapshots_that_stay(engine: Any, prior: priors.Prior) -> None:
    records: list[ptv.EpochRecord] = []
    snapshots: list[ptv.Fit] = []
    means: list[dict[str, Tensor]] = []

    def callback(record: ptv.EpochRecord, snapshot: Any) -> None:
        records.append(record)
        snapshots.append(snapshot())
        means.append({n: m.clone() for n, m in snapshots[-1].posterior.mean().items()})

    fit = run(model(prior), data(), engine=engine, epochs=3, callbacks=[callback])
    assert records == list(fit.history)
    assert [record.epoch for record in records] == [1, 2, 3]
    assert [len(snapshot.history) for snapshot in snapshots] == [1, 2, 3]
    for snapshot, mean in zip(snapshots, means, strict=True):
        for name, value in snapshot.posterior.mean().items():
            assert torch.equal(value, mean[name]), "training moved a snapshot"
    assert not torch.equal(means[0]["0.weight"], means[2]["0.weight"])
    bias = "net.0.bias"
    assert not torch.equal(snapshots[0].bnn.points[bias], snapshots[2].bnn.points[bias])


@every_engine
def test_snapshots_do_not_change_the_run(engine: Any, prior: priors.Prior) -> None:
    bnn, source = model(prior), data()
    quiet = run(bnn, source, engine=engine)
    watched = run(bnn, source, engine=engine, callbacks=[lambda _, snapshot: snapshot().masks()])
    assert same(quiet, watched)


@every_engine
def test_mixed_precision_changes_rounding_alone(engine: Any, prior: priors.Prior) -> None:
    """The net computes with eight bits, its output, loss and posterior have all."""
    seen: set[torch.dtype] = set()
    bnn = model(prior)
    bnn.net.get_submodule("1").register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    (x, y), types = data(), (None, torch.bfloat16)
    full, mixed = (run(bnn, (x, y), engine=engine, autocast=chosen) for chosen in types)
    assert seen == {torch.float32, torch.bfloat16}
    assert mixed.history.elbo == pytest.approx(full.history.elbo, rel=0.02)
    assert mixed.history.elbo != full.history.elbo
    for name, mean in full.posterior.mean().items():
        assert mixed.posterior.mean()[name].dtype == torch.float32
        torch.testing.assert_close(mixed.posterior.mean()[name], mean, rtol=0, atol=0.05)
    seen.clear()
    assert mixed.predict(x, num_samples=2).outputs.dtype == torch.float32
    assert seen == {torch.float32}, "predictions of the result"


def test_history_and_result() -> None:
    fit = run(model(), data(), epochs=3)
    assert [record.epoch for record in fit.history] == [1, 2, 3]
    assert fit.history.elbo == [-record.loss for record in fit.history]
    seconds = [record.seconds for record in fit.history]
    assert seconds == sorted(seconds)
    assert 0.0 < seconds[-1] <= fit.seconds
    assert fit.engine_name == "turbo"
    assert fit.elbo_kind == "bound"
    assert fit.elbo is not None
    assert math.isfinite(fit.elbo)
    assert not fit.bnn.training
    for record in fit.history:
        assert set(record.density) == {"0.weight", "2.weight"}
        assert all(0.0 <= share <= 1.0 for share in record.density.values())
    map_fit = run(model(priors.Normal()), data(), engine=engines.MAP())
    assert map_fit.elbo is None
    assert map_fit.elbo_kind == "log joint"
    assert all(set(record.density.values()) == {1.0} for record in map_fit.history)
    grid = run(model(priors.ThreeLayer(support=supports.Grid())), data(), epochs=1)
    assert grid.elbo_kind == "Bethe"


def test_the_elbo_is_on_the_scale_of_the_data_set() -> None:
    """More batches, same data, no movement: the same ELBO but for the noise of small scales."""
    bnn, source = model(priors.Normal(0.1)), data(64)
    engine = engines.Turbo(lr=1e-9, init_scale=1e-4)
    elbos = [run(bnn, source, engine=engine, batch_size=n, epochs=1).elbo for n in (64, 32, 8)]
    assert elbos[1] == pytest.approx(elbos[0], rel=1e-3)
    assert elbos[2] == pytest.approx(elbos[0], rel=1e-3)


def test_a_smaller_last_batch_counts_by_its_rows() -> None:
    bnn, (x, y) = model(priors.Normal(0.1)), data(64)
    y[:4] = 1 - y[:4]
    engine = engines.Turbo(lr=1e-9, init_scale=1e-4)
    elbos = []
    for size in (64, 60):
        loader = DataLoader(TensorDataset(x.flip(0), y.flip(0)), batch_size=size)
        elbos.append(run(bnn, loader, engine=engine, epochs=1).elbo)
    assert elbos[1] == pytest.approx(elbos[0], rel=1e-3)


def test_exact_weights_see_all_batches_of_a_loader_at_once() -> None:
    x, _ = data(40)
    y = x.sum(1)
    bnn = ptv.lift(nn.Linear(4, 1), likelihood=likelihoods.Gaussian(), prior=THREE_LAYER)
    engine = engines.Turbo(weights="exact")
    at_once = run(bnn, (x, y), engine=engine, epochs=5)
    loader = DataLoader(TensorDataset(x, y), batch_size=10)
    in_batches = run(bnn, loader, engine=engine, epochs=5)
    assert in_batches.elbo == pytest.approx(at_once.elbo, rel=1e-6)


def test_a_loader_that_is_read_at_once_draws_from_the_seed_alone() -> None:
    x, _ = data(40)
    bnn = ptv.lift(nn.Linear(4, 1), likelihood=likelihoods.Gaussian(), prior=THREE_LAYER)
    engine = engines.Turbo(weights="exact")
    loader = DataLoader(TensorDataset(x, x.sum(1)), batch_size=10, shuffle=True)
    before = torch.get_rng_state()
    first = run(bnn, loader, engine=engine, epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert same(first, run(bnn, loader, engine=engine, epochs=2))


def test_batch_norm_and_a_batch_of_one_point_are_refused_before_training() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 2))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.Normal(1.0))
    x, y = data(33)

    def note(_record: object, _snapshot: object) -> None:
        raise AssertionError("an epoch was trained")

    before = torch.get_rng_state()
    with pytest.raises(ShapeError) as error:
        run(bnn, (x, y), callbacks=[note])
    assert str(error.value).startswith("the network cannot be trained on a batch of one data point")
    assert str(error.value).endswith("another batch_size, or a DataLoader with drop_last=True")
    assert torch.equal(torch.get_rng_state(), before)
    loader = DataLoader(TensorDataset(x, y), batch_size=16, drop_last=True)
    fit = run(bnn, loader, epochs=1)
    assert fit.bnn.get_buffer("net.1.num_batches_tracked") == 2


def test_ready_batches_count_their_points() -> None:
    x, y = data(64)
    ready: Any = [(x[:48], y[:48]), (x[48:], y[48:])]
    fit = run(model(priors.Normal(0.1)), DataLoader(ready, batch_size=None), epochs=1)
    assert fit.training.num_data == fit.bnn.num_data == 64


@pytest.mark.usefixtures("no_type_checks")
def test_numbers_of_numpy_are_kept_as_plain_ones(tmp_path: Path) -> None:
    fit = run(model(), data(), epochs=np.int64(1), seed=np.int64(3))
    assert fit.training.seed == 3
    fit.save(tmp_path / "fit")
    assert ptv.Fit.load(tmp_path / "fit").training == fit.training


def test_point_estimates_equal_a_plain_penalised_fit() -> None:
    """MAP by plain torch: the same Adam on the same log joint ends at the same weights."""
    x, y = data()
    bnn = model(priors.Normal(0.5))
    fit = run(bnn, (x, y), engine=engines.MAP(lr=0.02), epochs=5, batch_size=48)
    net = copy.deepcopy(bnn.net)
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(5):
        adam.zero_grad()
        penalty = sum((net.get_parameter(n) ** 2).sum() for n in bnn.sites) / (2 * 0.5**2)
        loss = nn.functional.cross_entropy(net(x), y, reduction="sum") + penalty
        loss.backward()
        adam.step()
    for name, value in fit.mean_net().state_dict().items():
        torch.testing.assert_close(value, net.state_dict()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("progress", "terminal"), [(False, True), (True, False), (True, True)])
def test_a_bar_is_shown_to_a_terminal_unless_switched_off(
    progress: bool, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    run(model(priors.Normal()), data(), engine=engines.MAP(), epochs=1, progress=progress)
    assert ("map" in stream.getvalue()) is (progress and terminal)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bnn": nn.Linear(4, 2)},
            "fit needs a lifted net; given: Linear; "
            "accepted: ptv.lift(net, likelihood=..., prior=...)",
        ),
        ({"epochs": 0}, "epochs is out of range; given: 0; accepted: 1, 2, ..."),
        ({"batch_size": 0}, "batch_size is out of range; given: 0; accepted: 1, 2, ..."),
        (
            {"autocast": torch.float16},
            "autocast is no type that training can use; given: torch.float16; "
            "accepted: torch.bfloat16, or None",
        ),
    ],
)
def test_arguments(change: dict[str, Any], message: str) -> None:
    arguments = {"bnn": model(), "data": data(), "progress": False} | change
    with pytest.raises(InvalidArgumentError) as error:
        ptv.fit(**arguments)
    assert str(error.value) == message


def test_a_net_without_any_prior() -> None:
    bnn = ptv.lift(nn.Linear(4, 2), likelihood=likelihoods.Categorical(), prior=None)
    with pytest.raises(SiteError) as error:
        run(bnn, data())
    assert str(error.value) == (
        "no parameter of the net has a prior; given: Linear; accepted: a net with linear, "
        "convolution or attention layers, or priors.by_site({name: prior})"
    )


class Counting(Dataset[tuple[Tensor, Tensor]]):
    """Says how often its rows were read."""

    def __init__(self) -> None:
        self.x, self.y = data()
        self.reads = 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        return self.x[index], self.y[index]


def test_the_data_is_read_once_more_than_the_epochs_and_for_the_final_elbo() -> None:
    rows = Counting()
    run(model(priors.Normal()), rows, engine=engines.MAP(), epochs=3)
    assert rows.reads == 4 * 48
    rows.reads = 0
    run(model(priors.Normal()), rows, engine=engines.SVI(), epochs=3)
    assert rows.reads == 5 * 48


def test_an_error_in_a_callback_reaches_the_caller_with_the_random_state_restored() -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    source, bnn = data(), model()
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        run(bnn, source, callbacks=[stop])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_circumstances_of_a_training_are_kept() -> None:
    x, y = data()
    bnn = model()
    seen: list[int] = []
    fit = run(bnn, (x, y), seed=5, callbacks=[lambda _, now: seen.append(now().training.epochs)])
    training = fit.training
    assert seen == [1, 2]
    assert (training.epochs, training.batch_size, training.num_data, training.seed) == (
        2,
        16,
        48,
        5,
    )
    assert training.kl_weight == 0.1, "what a classifier's None stands for"
    assert training.start == start_digest(bnn.net) != start_digest(fit.mean_net())
    loader = DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True)
    other = run(bnn.with_prior(priors.Normal()), loader, engine=engines.MAP(), epochs=1)
    assert (other.training.data, other.training.start) == (training.data, training.start)
    assert (other.training.batch_size, other.training.kl_weight) == (7, 1.0)
    assert run(bnn, (x + 1, y), epochs=1).training.data != training.data
    full = run(
        ptv.lift(nn.Linear(4, 1), likelihood=likelihoods.Gaussian(), prior=priors.Normal()),
        (x, x[:, 0]),
        engine=engines.Turbo(weights="exact", kl_weight=0.5),
        epochs=1,
    )
    assert (full.training.batch_size, full.training.kl_weight) == (48, 1.0)


def test_fit_all_is_fit_on_equal_terms() -> None:
    bnn, source = model(priors.Normal()), data()
    mixed = priors.by_site({"0.weight": THREE_LAYER}, default=priors.Normal())
    plan = {
        "turbo": (THREE_LAYER, engines.Turbo()),
        "svi": (priors.Normal(), engines.SVI()),
        "mixed": (mixed, engines.Turbo()),
    }
    fits = ptv.fit_all(plan, bnn, source, epochs=2, seed=1, batch_size=16, progress=False)
    assert list(fits) == list(plan)
    for name, (prior, engine) in plan.items():
        alone = run(bnn.with_prior(prior), source, engine=engine, seed=1)
        assert same(fits[name], alone)
        assert fits[name].training == dataclasses.replace(
            fits["svi"].training, kl_weight=fits[name].training.kl_weight
        )
    with pytest.raises(SiteError, match="typo"):
        ptv.fit_all({"a": (priors.by_site({"typo": THREE_LAYER}), engines.Turbo())}, bnn, source)


@pytest.mark.usefixtures("no_type_checks")
def test_fit_all_checks_every_engine_before_it_trains() -> None:
    trained: list[str] = []

    class Watched(engines.MAP):
        def init(self, *args: Any) -> Any:
            trained.append("map")
            return super().init(*args)

    plan: dict[str, Any] = {"a": (priors.Normal(), Watched()), "b": (priors.Normal(), "adam")}
    with pytest.raises(InvalidArgumentError, match="unknown engine; given: adam"):
        ptv.fit_all(plan, model(), data(), progress=False)
    assert trained == []
