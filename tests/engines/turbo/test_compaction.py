"""Compaction in training: what is kept, that nothing changes by it, that the net gets smaller."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.batches import Batch
from pyro_turbovbi.coupling import couplings
from pyro_turbovbi.engines import TurboSettings
from pyro_turbovbi.engines.protocol import Plan
from pyro_turbovbi.engines.turbo.compaction import NarrowNet, NarrowTurbo, select
from pyro_turbovbi.engines.turbo.restructuring import RestructuringTurbo
from pyro_turbovbi.engines.turbo.restructuring import masks_of as run_masks
from pyro_turbovbi.engines.turbo.site import ThreeLayerSite
from pyro_turbovbi.engines.turbo.vbi import TurboVBI
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def masks_of(net: nn.Module) -> dict[str, Tensor]:
    names = [name for name, p in net.named_parameters() if p.dim() > 1]
    return {name: torch.ones_like(net.get_parameter(name), dtype=torch.bool) for name in names}


def lifted(net: nn.Module, *, gates: bool = False) -> ptv.BayesianNet:
    prior = priors.ThreeLayer(supports.Chain(0.3, 3.0), gates="shared" if gates else None)
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    bnn.num_data = 600
    return bnn


def batch_for(net: nn.Module) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (30, 6) if isinstance(net[0], nn.Linear) else (30, 2, 6, 6)
    return Batch((torch.randn(shape, generator=generator), torch.arange(30) % 3))


def test_units_go_when_no_kept_weight_reads_them_and_so_on_backwards() -> None:
    net = mlp()
    masks = masks_of(net)
    masks["4.weight"][:, 2] = False  # unit 2 of the second layer is unread
    masks["2.weight"][:, 1] = False
    masks["2.weight"][2, 1] = True  # unit 1 of the first layer is read by that unit alone
    masks["0.weight"][:, 3] = False  # input 3 is unread
    masks["0.weight"][1, 3] = True  # but for unit 1
    found = select(couplings(net, masks), masks, torch.Size([30, 6]))
    assert found.inputs is not None
    assert found.inputs.tolist() == [0, 1, 2, 4, 5]
    kept = {name: {d: i.tolist() for d, i in dims.items()} for name, dims in found.entries.items()}
    assert kept["0.weight"] == {0: [0, 2, 3, 4], 1: [0, 1, 2, 4, 5]}
    assert kept["0.bias"] == {0: [0, 2, 3, 4]}
    assert kept["2.weight"] == {0: [0, 1, 3], 1: [0, 2, 3, 4]}
    assert kept["4.weight"] == {1: [0, 1, 3]}


def test_one_unit_of_a_group_stays_at_least() -> None:
    net = mlp()
    masks = masks_of(net)
    masks["2.weight"][:] = False
    found = select(couplings(net, masks), masks, torch.Size([30, 6]))
    assert found.entries["0.weight"][0].tolist() == [0]


@pytest.mark.parametrize("make", [mlp, convolutional])
def test_the_narrow_net_computes_what_the_masked_one_does(make: type[nn.Sequential]) -> None:
    torch.manual_seed(1)
    net = make()
    masks = masks_of(net)
    for name, mask in masks.items():
        if name != "0.weight":
            mask[:, : mask.shape[1] // 2] = False
    bnn = lifted(net).eval()
    batch = batch_for(net)
    assert isinstance(batch.x, Tensor)
    selection = select(couplings(net, masks), masks, batch.x.shape)
    narrow = NarrowNet(bnn, selection).eval()
    weights = {name: net.get_parameter(name).detach() * mask for name, mask in masks.items()}
    cut = {name: selection.gather(name, weight) for name, weight in weights.items()}
    torch.testing.assert_close(narrow.output(cut, batch.x), bnn.output(weights, batch.x))
    sizes = [sum(p.numel() for p in one.net.parameters()) for one in (narrow, bnn)]
    assert sizes[0] < 0.75 * sizes[1]


def half_dead(net: nn.Sequential, *, gates: bool = False) -> tuple[TurboVBI, Batch]:
    """A run that has just begun, on a net of which many units have outgoing weights of zero."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if parameter.dim() > 1 and name != "0.weight":
                parameter.fill_(1.0)
                parameter[:, : parameter.shape[1] // 2] = 0.0
    settings = TurboSettings(
        damping=0.0, kl_weight=1.0, gates_from=0.0, init_scale=0.05,
        annealing=engines.SpikeAnnealing(start=1.0),
        reduction=engines.ModelReduction(unit_loss=0.5),
    )  # fmt: skip
    batch = batch_for(net)
    run = TurboVBI(lifted(net, gates=gates), settings=settings, num_steps=100)
    for _ in range(2):
        run.step(*batch)
    run.exchange()
    return run, batch


def narrowed(run: TurboVBI, batch: Batch) -> NarrowTurbo:
    assert isinstance(run.model, ptv.BayesianNet)
    net = run.model.net
    masks = masks_of(net)
    for name, mask in masks.items():
        if name != "0.weight":
            mask[:, : mask.shape[1] // 2] = False
    assert isinstance(batch.x, Tensor)
    selection = select(couplings(net, masks), masks, batch.x.shape)
    return NarrowTurbo(run, selection, batch)


@pytest.mark.parametrize("gates", [False, True])
@pytest.mark.parametrize("make", [mlp, convolutional])
def test_back_and_forth_changes_nothing_that_is_kept(
    make: type[nn.Sequential], *, gates: bool
) -> None:
    run, batch = half_dead(make(), gates=gates)
    before = {f.name: f.loc.detach().clone() for f in run.guide}
    assert isinstance(run.model, ptv.BayesianNet)
    bias = {name: p.detach().clone() for name, p in run.model.points.items()}
    moments = {f.name: run._optimizer.state[f.loc]["exp_avg_sq"].clone() for f in run.guide}
    narrow = narrowed(run, batch)
    narrow.write_back()
    for factor in run.guide:
        name, selection = factor.name, narrow.selection
        torch.testing.assert_close(
            selection.gather(name, factor.loc.detach()), selection.gather(name, before[name])
        )
        torch.testing.assert_close(
            selection.gather(name, run._optimizer.state[factor.loc]["exp_avg_sq"]),
            selection.gather(name, moments[name]),
        )
    for name, parameter in run.model.points.items():
        torch.testing.assert_close(parameter.detach(), bias[name])


@pytest.mark.parametrize("gates", [False, True])
def test_both_runs_have_the_same_elbo_and_supports(*, gates: bool) -> None:
    run, batch = half_dead(mlp(), gates=gates)
    narrow = narrowed(run, batch)
    narrow.write_back()

    def bound(turbo: TurboVBI) -> float:
        moments = [f.second_moment().detach() for f in turbo.guide]
        turbo.exchange()
        return float(turbo._prior_loss(moments))

    for _ in range(5):  # loops of gates settle
        ours, whole = bound(narrow), bound(run)
    # the whole run counts the elements that were left out; they follow their prior exactly
    assert ours == pytest.approx(whole, rel=1e-4)
    for name, site in narrow.sites.items():
        other = run.sites[name]
        assert isinstance(site, ThreeLayerSite)
        assert isinstance(other, ThreeLayerSite)
        theirs = other.probs
        torch.testing.assert_close(site.probs, site.place.gather(theirs), atol=1e-3, rtol=0.0)


def digits(count: int = 600) -> tuple[Tensor, Tensor]:
    """Three classes that six of twenty inputs tell apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 20, generator=generator)
    return x, (x[:, :6] @ torch.randn(6, 3, generator=generator)).argmax(1)


def test_training_with_compaction_ends_where_it_does_without() -> None:
    results = []
    for every in (None, 2):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3))
        bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.ThreeLayer())
        fit = ptv.fit(
            bnn, digits(), engine=engines.Turbo(compact_every=every, kl_weight=1.0, lr=1e-2),
            epochs=60, batch_size=50, seed=0, progress=False,
        )  # fmt: skip
        results.append(fit)
    plain, compacted = results
    test = digits(2000)
    errors = [fit.evaluate(test).error for fit in results]
    assert errors[0] is not None
    assert errors[1] == pytest.approx(errors[0], abs=0.02)
    masks = [fit.masks() for fit in (plain, compacted)]
    same = [float((masks[0][n] == masks[1][n]).float().mean()) for n in masks[0]]
    assert min(same) > 0.93
    assert plain.elbo is not None
    # The noise of fewer weights is other noise: equal up to what another seed would change.
    assert compacted.elbo == pytest.approx(plain.elbo, rel=0.2)


def test_the_run_gets_narrower_and_comes_back_whole() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.ThreeLayer())
    bnn.num_data = 600
    x, y = digits()
    engine = engines.Turbo(compact_every=1, kl_weight=1.0, lr=1e-2)
    state = engine.init(bnn, Plan(600, 600, Batch((x[:50], y[:50]))))
    assert isinstance(state, RestructuringTurbo)
    widths = []
    for step in range(600):
        rows = torch.arange(step * 50, step * 50 + 50) % 600
        engine.step(state, Batch((x[rows], y[rows])))
        widths.append(next(iter(state.active.guide)).loc.numel())
    assert widths[0] == 640
    assert widths[-1] < 200
    assert engine.posterior(state).mean()["0.weight"].shape == (32, 20)
    engine.finish(state)
    assert state.active is state.whole
    assert state.whole.steps_done == 600


def test_what_cannot_be_compacted_is_refused() -> None:
    x, y = digits(60)
    net = nn.Sequential(nn.Linear(20, 4), nn.ReLU(), nn.Linear(4, 3))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.ThreeLayer())
    engine = engines.Turbo(compact_every=1, factorisation="mean_field")
    with pytest.raises(UnsupportedError, match="structured"):
        ptv.fit(bnn, (x, y), engine=engine, epochs=1, progress=False)
    with pytest.raises(InvalidArgumentError, match="compact_every"):
        engines.Turbo(compact_every=0)


def test_tied_weights_stay_tied() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.Linear(5, 3)
    )
    net[4].weight = net[2].weight
    bnn, batch = lifted(net), batch_for(net)
    run = TurboVBI(bnn)
    run.setup(*batch)
    for site in run.sites.values():
        assert isinstance(site, ThreeLayerSite)
        site.probs = torch.ones_like(site.probs)
    run.sites["0.weight"].probs[:, 2] = 0.0  # a dead input
    for name in ("2.weight", "5.weight"):
        run.sites[name].probs[:, 1] = 0.0  # a dead unit of all hidden layers, which share theirs
    groups = couplings(bnn.net, list(masks_of(net)))
    narrow = NarrowTurbo(run, select(groups, run_masks(run), batch.x.shape), batch)
    small = narrow.model.net
    assert small[4].weight is small[2].weight
    assert small[4].weight.shape == (4, 4)
    for _ in range(4):
        narrow.step(*batch)
    narrow.write_back()
    outputs = [
        model.eval().output({f.name: f.loc.detach() for f in guide}, batch.x)
        for model, guide in ((narrow.model, narrow.guide), (bnn, run.guide))
    ]
    assert torch.allclose(*outputs, atol=1e-6)


def test_narrowing_does_not_train_batch_statistics() -> None:
    net = convolutional()
    bnn, batch = lifted(net), batch_for(net)
    run = TurboVBI(bnn)
    run.setup(*batch)
    groups = couplings(bnn.net, list(masks_of(net)))
    narrow = NarrowTurbo(run, select(groups, masks_of(net), batch.x.shape), batch)
    assert isinstance(narrow.model, NarrowNet)
    assert narrow.model.net[1].num_batches_tracked == 0
    assert torch.equal(narrow.model.net[1].running_mean, net[1].running_mean)
