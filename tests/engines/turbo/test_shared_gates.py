"""Turbo-VBI under shared unit gates: Module A's three states, the joint exchange, whole units."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.engines import SpikeAnnealing, TurboSettings
from pyro_turbovbi.engines.turbo.shared_gates import GatedSpikeSlab, SharedGates
from pyro_turbovbi.engines.turbo.site import SpikeSlab, make_site
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families import GateFactor, ThreeLayerFactor, make_factor
from pyro_turbovbi.kernels.evidence import log_evidence
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.priors.three_layer import closed_component

SETTINGS = TurboSettings(damping=0.0, annealing=SpikeAnnealing(start=1.0), gates_from=0.5)
PRIOR = priors.ThreeLayer(
    supports.Chain(0.3, 3.0), dist.Gamma(2.0, 2.0), dist.Gamma(4.0, 4 * 0.01**2), gates="shared"
)


def gated_site() -> tuple[GatedSpikeSlab, ThreeLayerFactor, SharedGates]:
    """Four units of ten inputs; the first two units and first five inputs have large weights."""
    init = torch.zeros(4, 10, dtype=torch.float64)
    init[:2, :5] = 1.0
    behind = priors.WeightGates(priors.Gates("units", 4), priors.Gates("input", 10))
    site = WeightSite("w", init.shape, PRIOR, init, behind)
    factor = make_factor(site, init_scale=0.03)
    assert isinstance(factor, ThreeLayerFactor)
    state = GatedSpikeSlab(site, factor, SETTINGS)
    gates = [GateFactor(g, init) for g in (behind.rows, behind.columns) if g is not None]
    return state, factor, SharedGates(gates, SETTINGS)


def test_before_their_time_gates_are_open_and_the_site_is_an_ordinary_one() -> None:
    state, factor, gates = gated_site()
    moments = factor.second_moment().detach()
    gates.exchange([state], {"w": moments}, progress=0.0)
    plain_site = WeightSite("w", factor.loc.shape, PRIOR, factor.loc.detach().clone())
    plain = make_site(plain_site, make_factor(plain_site, init_scale=0.03), SETTINGS)
    assert isinstance(plain, SpikeSlab)
    torch.testing.assert_close(state.probs, plain.probs)
    torch.testing.assert_close(state.precision, plain.precision)
    torch.testing.assert_close(state.prior_bound(moments), plain.prior_bound(moments))


def test_units_and_inputs_without_weights_are_closed_whole() -> None:
    state, factor, gates = gated_site()
    for _ in range(5):
        gates.exchange([state], {"w": factor.second_moment().detach()}, progress=0.6)
    assert (gates.log_odds["units"] > 0).tolist() == [True, True, False, False]
    assert (gates.log_odds["input"] > 0).tolist() == [True] * 5 + [False] * 5
    assert bool((state.probs[:2, :5] > 0.99).all())
    assert float(state.probs[2:].max()) < 0.01
    closed = closed_component(state.components)
    assert state.precision[3, 9].item() == pytest.approx(
        closed.concentration / closed.rate, rel=0.1
    )


def test_q_is_the_posterior_over_three_states() -> None:
    """Element by element, against Bayes' rule with the messages as the prior."""
    state, factor, gates = gated_site()
    moments = factor.second_moment().detach()
    gates.exchange([state], {"w": moments}, progress=0.6)
    opened, own = (message.sigmoid() for message in state.messages)
    laws = (*state.components, state.closed)
    prior = torch.stack([opened * own, opened * (1 - own), 1 - opened])
    evidence = torch.stack([log_evidence(moments, *law) for law in laws])
    posterior = (prior.log() + evidence).softmax(0)
    torch.testing.assert_close(state.probs, posterior[0])
    mean = torch.stack([(a + 0.5) / (b + 0.5 * moments) for a, b in laws])
    torch.testing.assert_close(state.precision, (posterior * mean).sum(0))


def test_the_slope_of_the_elbo_part_is_the_expected_precision() -> None:
    state, factor, gates = gated_site()
    moments = factor.second_moment().detach()
    gates.exchange([state], {"w": moments}, progress=0.6)
    nearby = moments * (1 + 1e-6 * torch.randn_like(moments))
    before, tangent = state.prior_bound(moments), state.prior_bound(nearby)
    state.refresh(nearby)
    torch.testing.assert_close(state.prior_bound(nearby), tangent, atol=1e-6, rtol=0.0)
    slope = -0.5 * (state.precision * (nearby - moments)).sum()
    torch.testing.assert_close(tangent - before, slope, atol=1e-6, rtol=1e-3)


def test_rescaling_a_weight_and_its_prior_changes_no_support() -> None:
    results = []
    for unit in (1.0, 40.0):
        prior = priors.ThreeLayer(
            supports.Chain(0.3, 3.0),
            dist.Gamma(2.0, 2.0 * unit**2),
            dist.Gamma(4.0, 4 * (0.01 * unit) ** 2),
            gates="shared",
        )
        init = unit * torch.linspace(-1, 1, 40, dtype=torch.float64).view(4, 10).pow(5)
        behind = priors.WeightGates(priors.Gates("units", 4), None)
        site = WeightSite("w", init.shape, prior, init, behind)
        factor = make_factor(site, init_scale=0.03 * unit)
        assert isinstance(factor, ThreeLayerFactor)
        state = GatedSpikeSlab(site, factor, SETTINGS)
        assert behind.rows is not None
        gates = SharedGates([GateFactor(behind.rows, init)], SETTINGS)
        gates.exchange([state], {"w": factor.second_moment().detach()}, progress=0.6)
        results.append(state.probs)
    torch.testing.assert_close(results[0], results[1])


def teacher(units: int = 3) -> tuple[torch.Tensor, torch.Tensor, nn.Module]:
    """Targets of a net that reads 6 of 20 inputs through a few of its hidden units."""
    torch.manual_seed(0)
    x = torch.randn(600, 20)
    net = nn.Sequential(nn.Linear(20, units), nn.Tanh(), nn.Linear(units, 1))
    with torch.no_grad():
        net[0].weight[:, 6:] = 0.0
        net[0].weight[:, :6] *= 8.0
        net[2].weight *= 3.0
        y = net(x).squeeze(-1) + 0.02 * torch.randn(600)
    return x, y, net


def test_whole_units_go() -> None:
    x, y, _ = teacher()
    net = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 1))
    prior = priors.ThreeLayer(supports.Independent(0.2), gates="shared")
    bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(scale=0.3), prior=prior)
    fit = ptv.fit(
        bnn, (x, y), engine=engines.Turbo(lr=1e-2), epochs=120, batch_size=100, seed=0,
        progress=False,
    )  # fmt: skip
    small = fit.compress((x, y))
    widths = [int(width) for width in str(small.report.structure).split("-")]
    assert widths[0] == 6
    assert widths[1] < 10
    assert fit.elbo_kind == "Bethe"
    probs = fit.gate_probs()
    assert {name: len(p) for name, p in probs.items()} == {"input": 20, "0.weight": 16}
    assert int((probs["input"] > 0.5).sum()) == 6
    with torch.no_grad():
        mean_square = float((small.module(x).squeeze(-1) - y).square().mean())
    assert mean_square < 0.1 * float(y.var())


def test_what_gates_cannot_do_is_refused_with_alternatives() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    data = (torch.randn(20, 4), torch.randn(20))

    def fit(prior: priors.ThreeLayer, engine: engines.Turbo) -> None:
        bnn = ptv.lift(net, likelihood=likelihoods.Gaussian(), prior=prior)
        ptv.fit(bnn, data, engine=engine, epochs=1, progress=False)

    with pytest.raises(UnsupportedError, match=r"supports\.Independent"):
        fit(priors.ThreeLayer(supports.Grid(), gates="shared"), engines.Turbo())
    with pytest.raises(UnsupportedError, match="learn_hyper=False"):
        fit(priors.ThreeLayer(gates="shared"), engines.Turbo(learn_hyper=True))
    with pytest.raises(UnsupportedError, match="structured"):
        fit(priors.ThreeLayer(gates="shared"), engines.Turbo(factorisation="mean_field"))


@pytest.mark.parametrize(("unit_loss", "hidden"), [(1.0, 0.5), (0.2, 0.1)])
def test_the_loss_of_a_hidden_unit_is_counted_once(unit_loss: float, hidden: float) -> None:
    """Or a share of it. Inputs have weights on one side, hidden units on both."""
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=PRIOR)
    settings = engines.TurboSettings(reduction=engines.ModelReduction(unit_loss=unit_loss))
    vbi = engines.TurboVBI(bnn, settings=settings, num_steps=10)
    vbi.setup(torch.randn(8, 6), torch.randint(2, (8,)))
    blame = {
        name: site.blame for name, site in vbi.sites.items() if isinstance(site, GatedSpikeSlab)
    }
    assert blame == {"0.weight": 1.0, "2.weight": hidden, "4.weight": hidden}


def test_gates_of_hidden_rows_behind_inputs_are_told_less() -> None:
    """The weights that inputs share with hidden units: two shares, for the gates of either side."""
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=PRIOR)
    settings = engines.TurboSettings(reduction=engines.ModelReduction(unit_loss=0.25))
    vbi = engines.TurboVBI(bnn, settings=settings, num_steps=10)
    vbi.setup(torch.randn(8, 6), torch.randint(2, (8,)))
    first, second = (vbi.sites[name] for name in ("0.weight", "2.weight"))
    assert isinstance(first, GatedSpikeSlab)
    assert isinstance(second, GatedSpikeSlab)
    assert second.row_closing is None
    assert first.closing is not None
    assert first.row_closing is not None
    assert (first.blame, first.row_blame) == (1.0, 0.5)
    first.closing.change.fill_(-1.0)
    first.row_closing.change.fill_(-3.0)
    first._share = 0.5
    factor = next(iter(vbi.guide))
    whole = first.whole_evidence(first.evidence(factor.second_moment().detach()))
    assert whole.relief is not None
    torch.testing.assert_close(whole.relief, torch.full((5, 6, 1), 0.5 * (3.0 - 1.0)))


@pytest.mark.filterwarnings("ignore:.*made by a parametrisation")
@pytest.mark.parametrize("layer", ["instance norm", "spectral norm"])
def test_layers_that_cannot_be_cut_train_with_gates_and_compaction(layer: str) -> None:
    torch.manual_seed(0)
    first: nn.Module = nn.Conv2d(1, 6, 3, padding=1)
    norm: nn.Module = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
    if layer == "spectral norm":
        first, norm = nn.utils.parametrizations.spectral_norm(first), nn.Identity()
    net = nn.Sequential(
        first, norm, nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )
    data = torch.randn(40, 1, 4, 4), torch.arange(40) % 3
    prior = priors.ThreeLayer(supports.Independent(0.05), gates="shared")
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    engine = engines.Turbo(
        lr=3e-2, gates_from=0.0, compact_every=1, reorder_every=1,
    )  # fmt: skip
    fit = ptv.fit(bnn, data, engine=engine, epochs=12, batch_size=20, seed=0, progress=False)
    assert fit.evaluate(data).error is not None
    fit.compress(data, reorder=True)  # checks what it computes
