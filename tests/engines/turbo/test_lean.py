"""The lean mode is the ordinary one with an update at every step; it forgets nothing it needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.engines import ModelReduction, SpikeAnnealing, Turbo, TurboSettings, TurboVBI
from pyro_turbovbi.engines.turbo.lean import TOGETHER, LeanSite, LeanTurboVBI, rows_of
from pyro_turbovbi.engines.turbo.site import ThreeLayerSite
from pyro_turbovbi.errors import InvalidArgumentError, NumericalError, TurboVBIError

STEPS = 30
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(32, 6, generator=GENERATOR, dtype=torch.float64)
Y = (X[:, 0] > 0).long()
CHAIN = priors.ThreeLayer(support=supports.Chain(0.3, 3.0))
PRIORS: dict[str, priors.Prior] = {
    "chain": CHAIN,
    "grid": priors.ThreeLayer(support=supports.Grid(0.3, 2.0)),
    "gated": priors.ThreeLayer(support=supports.Gated(gate=(0.5, 2.0), within=(0.3, 3.0))),
    "blocks": priors.ThreeLayer(support=supports.Blocks(size=(2, 2))),
    "shared gates": priors.ThreeLayer(support=supports.Chain(0.3, 3.0), gates="shared"),
    "normal": priors.Normal(0.3),
}
SETTINGS: dict[str, Any] = {
    "refresh_every": 1,
    "messages_every": 3,
    "lr": 0.1,
    "annealing": SpikeAnnealing(start=3.0, until=0.3),
    "reduction": ModelReduction(start=0.0, full=0.3, unit_loss=0.5),
}


def model(prior: priors.Prior, dtype: torch.dtype = torch.float64) -> ptv.BayesianNet:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)


def started(make: type[TurboVBI], prior: priors.Prior, **settings: Any) -> TurboVBI:
    run = make(model(prior), settings=TurboSettings(**SETTINGS | settings), num_steps=2 * STEPS)
    run.setup(X, Y)
    torch.manual_seed(2)
    return run


def layered(run: TurboVBI) -> list[ThreeLayerSite]:
    return [site for site in run.sites.values() if isinstance(site, ThreeLayerSite)]


def results(run: TurboVBI) -> list[Tensor]:
    parameters = [p.detach() for p in run.guide.parameters()]
    return parameters + [site.probs for site in layered(run)]


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are worked on two rows after two, those with few elements at once."""
    monkeypatch.setitem(TOGETHER, "cpu", 17)


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("name", PRIORS)
def test_results_are_those_of_an_update_at_every_step(name: str) -> None:
    """Through warm-up, annealing and model reduction, up to the last exchange."""
    losses: list[list[float]] = []
    found: list[list[Tensor]] = []
    decided = 0
    for make in (TurboVBI, LeanTurboVBI):
        run = started(make, PRIORS[name])
        losses.append([])
        for _ in range(STEPS):
            losses[-1].append(run.step(X, Y))
            decided += sum(int(s.reduction.change.lt(0).sum()) for s in layered(run) if s.reduction)
        run.exchange()
        found.append(results(run))
    assert decided or name == "normal", "model reduction took part"
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    for ordinary, lean in zip(*found, strict=True):
        torch.testing.assert_close(lean, ordinary, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("name", ["chain", "shared gates"])
def test_inactive_means_are_held_at_zero_alike(name: str) -> None:
    """Of what a step has found inactive, and in the end of what the last exchange has."""
    found: list[list[Tensor]] = []
    for make in (TurboVBI, LeanTurboVBI):
        steps = STEPS + 1  # no exchange is due then, for which something would be held
        run = make(model(PRIORS[name]), settings=TurboSettings(**SETTINGS), num_steps=steps)
        run.setup(X, Y)
        torch.manual_seed(2)
        for _ in range(steps):
            run.step(X, Y)
        assert not any(site.held for site in layered(run) if isinstance(site, LeanSite))
        run.exchange()
        found.append(results(run))
        for factor, site in zip(run.guide, run.sites.values(), strict=True):
            assert isinstance(site, ThreeLayerSite)
            inactive = site.probs <= 0.5
            assert bool(inactive.any())
            assert bool((factor.loc[inactive] == 0.0).all())
    for ordinary, lean in zip(*found, strict=True):
        torch.testing.assert_close(lean, ordinary, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "shape", [(), (7,), (4, 3), (1, 40), (9, 2, 3, 3), (40, 1)], ids=lambda shape: f"{shape}"
)
def test_rows_are_every_element_once(shape: tuple[int, ...]) -> None:
    weight, seen = torch.zeros(shape), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TOGETHER, "cpu", 17)
        for rows in rows_of(weight):
            weight[rows] += 1.0
            seen.append(weight[rows].numel())
    assert bool((weight == 1.0).all())
    largest_row = weight[0].numel() if shape else 1
    assert max(seen) <= max(17, largest_row)


def test_learned_hyperparameters_are_the_same() -> None:
    settings = {"learn_hyper": True}
    ordinary, lean = (started(m, CHAIN, **settings) for m in (TurboVBI, LeanTurboVBI))
    for run in (ordinary, lean):
        torch.manual_seed(2)
        for _ in range(STEPS):
            run.step(X, Y)
    for a, b in zip(layered(ordinary), layered(lean), strict=True):
        assert tuple(b.components.active) == pytest.approx(tuple(a.components.active), rel=1e-8)
    assert layered(lean)[0].components != CHAIN.components(torch.Size([8, 6]))


@pytest.mark.parametrize("name", ["chain", "shared gates"])
def test_nothing_is_held_between_steps_but_before_an_exchange(name: str) -> None:
    run = started(LeanTurboVBI, PRIORS[name])
    held = []
    for _ in range(6):
        run.step(X, Y)
        held.append({site.held for site in layered(run) if isinstance(site, LeanSite)})
        assert all(f.loc.grad is None and f.log_scale.grad is None for f in run.guide)
        assert run.noises == []
    assert held == [{False}, {False}, {True}, {False}, {False}, {True}]


@pytest.mark.parametrize("done", [2, 3, 5])
def test_a_stored_state_goes_on_bit_for_bit(done: int) -> None:
    """Also between the two steps of an antithetic pair, and where an exchange is due."""
    first, second = (started(LeanTurboVBI, CHAIN) for _ in range(2))
    for _ in range(done):
        first.step(X, Y)
    saved = ptv.persistence.trees.snapshot(first.state_dict())
    random_state = torch.get_rng_state()
    expected = [first.step(X, Y) for _ in range(6)]
    second.load_state_dict(saved)
    torch.set_rng_state(random_state)
    assert [second.step(X, Y) for _ in range(6)] == expected


@pytest.mark.parametrize("name", ["chain", "shared gates"])
@pytest.mark.parametrize("done", [1, 3])
def test_supports_can_be_read_from_a_state_that_was_loaded(name: str, done: int) -> None:
    """As re-ordering does, whether or not the state held them."""
    first, second = (started(LeanTurboVBI, PRIORS[name]) for _ in range(2))
    for _ in range(done):
        first.step(X, Y)
    second.load_state_dict(ptv.persistence.trees.snapshot(first.state_dict()))
    for one, other in zip(layered(first), layered(second), strict=True):
        assert torch.equal(one.probs, other.probs)
        assert torch.equal(one.precision, other.precision)


def test_evaluating_changes_nothing() -> None:
    run = started(LeanTurboVBI, CHAIN)
    run.step(X, Y)
    before = results(run)
    for site in layered(run):
        assert isinstance(site, LeanSite)
        site.release()
    run.evaluate_loss(X, Y)
    assert not any(site.held for site in layered(run) if isinstance(site, LeanSite))
    assert all(map(torch.equal, results(run), before))


@pytest.mark.parametrize("reorder_every", [None, 1])
def test_it_is_an_engine(reorder_every: int | None) -> None:
    """Of `fit`, in single precision; re-ordering takes messages and supports along."""
    engine = Turbo(lean=True, reorder_every=reorder_every)
    data = (X.float(), Y)
    fits = [
        ptv.fit(
            model(CHAIN, torch.float32), data, engine=e, epochs=8, batch_size=16, progress=False
        )
        for e in (engine, Turbo(refresh_every=1, reorder_every=reorder_every))
    ]
    for lean, ordinary in zip(*(fit.posterior.mean().values() for fit in fits), strict=True):
        torch.testing.assert_close(lean, ordinary, rtol=1e-3, atol=1e-4)
    for lean, ordinary in zip(*(fit.support_probs().values() for fit in fits), strict=True):
        torch.testing.assert_close(lean, ordinary, rtol=1e-3, atol=1e-3)


def test_a_loss_that_is_not_finite_is_an_error_at_once() -> None:
    """No copy of the training is kept to go back to."""
    x = X.float()
    with pytest.raises(NumericalError, match="epoch 1"):
        ptv.fit(
            model(CHAIN, torch.float32), (1e30 * x, Y), engine=Turbo(lean=True, lr=1e30),
            epochs=3, batch_size=16, progress=False,
        )  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [{"factorisation": "mean_field"}, {"weights": "exact"}, {"compact_every": 2}],
    ids=str,
)
def test_what_cannot_be_lean_says_so(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="lean") as error:
        Turbo(lean=True, **settings)
    assert isinstance(error.value, TurboVBIError)


def test_noise_comes_in_pairs_whatever_the_layout_of_a_weight() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=CHAIN)
    run = LeanTurboVBI(bnn, settings=TurboSettings(**SETTINGS))
    run.setup(torch.randn(8, 2, 4, 4), torch.arange(8) % 2)
    drawn = run._training_noise()
    run.steps_done += 1
    for noise, mirrored in zip(drawn, run._training_noise(), strict=True):
        assert torch.equal(noise, -mirrored)
