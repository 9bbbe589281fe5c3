from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.diagnostics import Comparison, ComparisonRow, compare
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, SiteError, UnsupportedError
from pyro_turbovbi.likelihoods import Gaussian
from pyro_turbovbi.training import Training
from tests.diagnostics.fakes import FakeFit


def _net(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, outputs))


def _masks(net: nn.Sequential) -> dict[str, Tensor]:
    """Half the hidden units lose their incoming weights."""
    masks = {
        f"{i}.weight": torch.ones_like(net.get_parameter(f"{i}.weight"), dtype=torch.bool)
        for i in (0, 2)
    }
    masks["0.weight"][:3] = False
    return masks


def _data(outputs: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(60, 4, generator=generator),
        torch.randint(0, outputs, (60,), generator=generator),
    )


def _row(name: str = "a", **values: Any) -> ComparisonRow:
    return ComparisonRow(name, "engine", 10, seconds=1.0, nll=0.5, **values)


def test_a_row_holds_what_the_fit_the_data_and_the_cut_say() -> None:
    net = _net()
    fit = FakeFit(net, _masks(net))
    x, y = _data()
    row = compare({"fit": fit}, (x, y)).rows[0]
    report = fit.compress((x, y)).report
    assert (row.name, row.engine, row.num_points, row.seconds) == ("fit", "fake", 60, 1.5)
    assert row.error == pytest.approx((net(x).argmax(1) != y).double().mean().item())
    assert row.weights_left == pytest.approx((3 * 4 + 3 * 3) / (6 * 4 + 6 * 3))
    assert row.structure == "4-3"
    assert (row.clusters, row.mean_cluster_length) == (6, 3.5)
    assert (row.parameters, row.flops, row.bytes) == (3 * 5 + 3 * 4, 42, report.bytes)
    assert row.coding == "plain"
    assert (row.elbo, row.elbo_kind, row.elbo_group) == (-12.5, "bound", "a")
    assert (row.priors, row.learned) == ({"0.weight": "Normal(scale=1.0)"}, ())
    assert (row.likelihood, row.training) == ("Categorical()", fit.training)


def test_the_pruned_error_is_that_of_the_compressed_network() -> None:
    net, (x, y) = _net(), _data()
    masks = _masks(net)
    row = compare({"fit": FakeFit(net, masks)}, (x, y)).rows[0]
    with torch.no_grad():
        pruned = torch.func.functional_call(
            net, {name: net.get_parameter(name) * mask for name, mask in masks.items()}, (x,)
        )
    assert row.pruned == pytest.approx((pruned.argmax(1) != y).double().mean().item())
    assert row.pruned != row.error


def test_with_validation_data_the_network_is_the_rounded_one_and_its_file_compact() -> None:
    net, (x, y) = _net(), _data()
    fit, judge = FakeFit(net, _masks(net)), (x[:40], y[:40])
    plain = compare({"fit": fit}, (x, y))
    comparison = compare({"fit": fit}, (x, y), validation=judge, tolerance=0.05)
    rough = fit.compress((x, y)).quantise(judge, tolerance=0.05)
    row = comparison.rows[0]
    assert (row.coding, row.bytes) == ("compact", rough.report.bytes)
    assert plain.rows[0].bytes != row.bytes
    assert row.weights_left == rough.report.weights_left
    assert row.pruned == pytest.approx((rough.module(x).argmax(1) != y).double().mean().item())
    for table, here, elsewhere in ((plain, "plain", "compact"), (comparison, "compact", "plain")):
        assert here in str(table).splitlines()[0].split()
        assert f"{here} bytes: its file" in str(table)
        assert elsewhere not in str(table)
        assert f'"coding": "{here}"' in table.to_json()


@pytest.mark.parametrize(
    ("likelihood", "outputs"),
    [
        (likelihoods.Bernoulli(), 1),
        (likelihoods.Poisson(), 1),
        (Gaussian(0.5), 1),
        (Gaussian(heteroscedastic=True), 2),
    ],
    ids=["bernoulli", "poisson", "gaussian", "heteroscedastic"],
)
def test_rounding_costs_at_most_the_tolerance_in_nats_a_point(
    likelihood: likelihoods.Likelihood, outputs: int
) -> None:
    net, x = _net(outputs), _data()[0]
    fit = FakeFit(net, _masks(net), likelihood=likelihood)
    with torch.no_grad():
        y = likelihood.distribution(net(x)).sample()
    row = compare({"fit": fit}, (x, y), validation=(x, y), tolerance=0.02).rows[0]
    rough = fit.compress((x, y)).quantise((x, y), tolerance=0.02)
    assert (row.coding, row.bytes) == ("compact", rough.report.bytes)
    exact = copy.deepcopy(net)
    exact[0].weight.data[:3] = 0.0
    nll = []
    for module in (exact, rough.module):
        with torch.no_grad():
            nll.append(-float(likelihood.distribution(module(x)).log_prob(y).mean()))
    how = rough.quantisation
    assert how is not None
    assert [how.loss_exact, how.loss] == pytest.approx(nll, rel=1e-5)
    assert how.loss <= how.loss_exact + 0.02


def test_the_pruned_error_of_soft_targets_is_that_of_their_labels() -> None:
    net, (x, y) = _net(), _data()
    fits = {"fit": FakeFit(net, _masks(net))}
    soft = nn.functional.one_hot(y, 3).float()
    labels = compare(fits, (x, y)).rows[0]
    row = compare(fits, (x, soft), validation=(x, soft)).rows[0]
    assert row.error == labels.error
    assert compare(fits, (x, soft)).rows[0].pruned == labels.pruned
    assert row.coding == "compact"


def test_a_missing_coder_is_an_error_and_no_network_that_cannot_be_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(UnsupportedError, match="constriction"):
        compare({"fit": FakeFit(_net())}, _data(), validation=_data())


def test_a_regression_reports_rmse() -> None:
    net = _net(1)
    x = _data()[0]
    fit = FakeFit(net, likelihood=Gaussian(0.5))
    comparison = compare({"fit": fit}, (x, net(x).detach().squeeze(1) + 0.25))
    row = comparison.rows[0]
    assert row.rmse == pytest.approx(0.25, rel=1e-5)
    assert row.pruned == pytest.approx(0.25, rel=1e-5)
    assert (row.error, row.ece) == (None, None)
    assert "rmse" in str(comparison)
    assert "ECE" not in str(comparison).splitlines()[1]
    assert comparison.plot().axes[0].get_ylabel() == "RMSE"


def test_the_draws_depend_on_the_seed_alone() -> None:
    fits, data = {"fit": FakeFit(_net(), noise=1.0)}, _data()
    first = compare(fits, data)
    state = torch.get_rng_state()
    torch.rand(1)
    assert compare(fits, data).rows[0].nll == first.rows[0].nll
    assert compare(fits, data, seed=1).rows[0].nll != first.rows[0].nll
    torch.set_rng_state(state)
    compare(fits, data)
    assert torch.equal(state, torch.get_rng_state())


def test_a_net_that_cannot_be_cut_gets_a_row_and_a_footnote() -> None:
    fits = {"a": FakeFit(_net()), "b": FakeFit(_net(), can_be_cut=False)}
    comparison = compare(fits, _data())
    row = comparison.rows[1]
    assert row.error is not None
    cut = ("pruned", "weights_left", "structure", "clusters", "parameters", "flops", "bytes")
    assert all(getattr(row, name) is None for name in cut)
    note, same = comparison.footnotes
    assert note == "b cannot be cut: attention cannot be cut; accepted: chains of layers"
    lines = str(comparison).splitlines()
    assert lines[4].startswith("b [1]")
    assert lines[-2:] == [f"[1] {note}", same]


def test_a_net_with_several_inputs_cannot_be_cut() -> None:
    class Sum(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    batches = [{"a": torch.zeros(5, 2), "b": torch.ones(5, 2), "y": torch.zeros(5).long()}]
    loader: Any = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    assert compare({"fit": FakeFit(Sum())}, loader).rows[0].uncut == "it has 2 inputs"


def test_the_table_has_every_column_and_no_empty_one() -> None:
    full = _row(
        error=0.0312,
        pruned=0.04,
        ece=0.0123,
        weights_left=0.0256,
        structure="3-2",
        clusters=1234,
        mean_cluster_length=2.345,
        parameters=56789,
        flops=100_000,
        bytes=2048,
        coding="plain",
        latency=0.00123,
        elbo=-1234.56,
        elbo_kind="bound",
    )
    lines = str(Comparison((full,))).splitlines()
    header = " ".join(lines[0].split() + lines[1].split())
    assert header == (
        "error pruned weights mean plain latency train "
        "% % NLL ECE left % structure clusters length parameters FLOPs bytes ms s ELBO"
    )
    assert " ".join(lines[3].split()) == (
        "a 3.12 4.00 0.5000 0.0123 2.56 3-2 1,234 2.35 56,789 100,000 2,048 1.230 1.0 "
        "-1,234.6 bound"
    )


SAME = "ELBOs with the same letter bound the same log-evidence: the higher, the closer to it"
BETHE = "Bethe: an approximation of the log-evidence, no bound of it, and so not ranked"
SUMMED_OUT = "a: the same prior, written or summed out in different ways"


def _models(*causes: str) -> str:
    return (
        f"ELBOs with different letters are of different models ({', '.join(causes)}): the higher "
        "speaks for its model, as far as both bounds are tight"
    )


CHAIN = priors.ThreeLayer(supports.Chain(0.1, 4.0))
COLLAPSED = priors.ThreeLayer(supports.Chain(0.1, 4.0), collapse=True)
# The default slab of a weight (6, 4), written out.
WRITTEN_OUT = priors.ThreeLayer(supports.Chain(0.1, 4.0), active=dist.Gamma(1.0, 625.0))
OTHER_DATA = Training(3, 16, 40, 0, "other", "start")


@pytest.mark.parametrize(
    ("changes", "groups", "notes"),
    [
        ([{}, {}], "aa", [SAME]),
        ([{"prior": CHAIN}, {"prior": copy.deepcopy(CHAIN)}], "aa", [SAME]),
        ([{"prior": CHAIN}, {"prior": COLLAPSED}], "aa", [SAME, SUMMED_OUT]),
        (
            [{"prior": CHAIN}, {"prior": COLLAPSED}, {"prior": priors.Normal()}],
            "aab",
            [SAME, SUMMED_OUT, _models("priors")],
        ),
        ([{"prior": priors.Normal(1.0)}, {"prior": priors.Normal(2.0)}], "ab", [_models("priors")]),
        ([{"prior": CHAIN}, {"prior": WRITTEN_OUT}], "aa", [SAME, SUMMED_OUT]),
        (
            [{"prior": CHAIN}, {"prior": CHAIN, "learned": ("0.weight",)}],
            "ab",
            [_models("learned hyper-parameters")],
        ),
        ([{"elbo_kind": "Bethe"}, {}], "-a", [BETHE]),
        ([{"elbo_kind": "Bethe"}, {"elbo_kind": "Bethe"}], "--", [BETHE]),
        ([{"elbo_kind": "log joint"}, {}], "-a", []),
        ([{"elbo": None}, {}, {}], "-aa", [SAME]),
        ([{}, {"net": nn.Sequential(nn.Linear(4, 3))}], "ab", [_models("nets")]),
        (
            [{}, {"training": OTHER_DATA}],
            "ab",
            [
                "ELBOs of different data cannot be compared: a | b",
                "not like with like in data (60 points: fit 0 | 40 points: fit 1)",
            ],
        ),
        (
            [{}, {"training": Training(3, 16, 60, 0, "data", "start", kl_weight=0.2)}],
            "aa",
            [SAME, "where the KL weight is not 1, not the ELBO was maximised (0.2: fit 1)"],
        ),
    ],
)
def test_elbos_of_one_letter_bound_the_same_evidence(
    changes: list[dict[str, Any]], groups: str, notes: list[str]
) -> None:
    fits = {f"fit {i}": FakeFit(**({"net": _net()} | change)) for i, change in enumerate(changes)}
    comparison = compare(fits, _data())
    assert [row.elbo_group or "-" for row in comparison.rows] == list(groups)
    assert list(comparison.footnotes) == notes
    document = json.loads(comparison.to_json())
    assert [row["elbo_group"] for row in document["rows"]] == [
        row.elbo_group for row in comparison.rows
    ]


def test_fixed_noise_is_part_of_the_model_and_learned_noise_is_not() -> None:
    x = _data()[0]
    likelihoods_ = [
        Gaussian(0.5, learn=False), Gaussian(0.7, learn=False), Gaussian(0.5), Gaussian(0.7)
    ]  # fmt: skip
    fits = {str(i): FakeFit(_net(1), likelihood=each) for i, each in enumerate(likelihoods_)}
    comparison = compare(fits, (x, x[:, 0]))
    assert [row.elbo_group for row in comparison.rows] == ["a", "b", "c", "c"]
    assert comparison.footnotes == (SAME, _models("likelihoods"))


def test_the_letter_stands_beside_the_elbo() -> None:
    rows = (
        _row("x", elbo=-1.0, elbo_kind="bound", elbo_group="a"),
        _row("y", elbo=-20.0, elbo_kind="Bethe"),
        _row("z"),
    )
    lines = str(Comparison(rows)).splitlines()
    assert [line.split()[3:] for line in lines[3:6]] == [
        ["-1.0", "a", "bound"],
        ["-20.0", "Bethe", "[1]"],
        [],
    ]
    assert lines[-1] == f"[1] {BETHE}"


def test_trainings_that_differ_are_told() -> None:
    same = Training(30, 16, 60, 0, "data", "start")
    trainings = {
        "a": same,
        "b": same,
        "c, short": replace(same, epochs=1000),
        "d": replace(same, seed=1, start="other"),
        "e": replace(same, data="other", batch_size=8),
    }
    rows = tuple(_row(name, training=training) for name, training in trainings.items())
    assert Comparison(rows).footnotes == (
        'not like with like in epochs (1,000: "c, short" | 30: all others); '
        "batch size (8: e | 16: all others); seed (1: d | 0: all others); "
        "data (60 points: e | 60 points: all others); start weights (d | all others)",
    )
    assert Comparison(rows[:2]).footnotes == ()
    assert Comparison((_row("x"), *rows[:1])).footnotes == ()


def test_fits_of_one_call_are_like_with_like() -> None:
    x, y = _data()
    bnn = ptv.lift(_net(), likelihood=likelihoods.Categorical(), prior=priors.Normal())
    svi = engines.SVI()
    plan: dict[str, Any] = {
        "turbo": (CHAIN, engines.Turbo(kl_weight=1.0)),
        "svi": (COLLAPSED, svi),
        "learned": (CHAIN, engines.Turbo(learn_hyper=True, kl_weight=1.0)),
        "normal": (priors.Normal(), svi),
        "map": (priors.Normal(), engines.MAP()),
        "cold": (priors.Normal(), engines.Turbo()),
    }
    fits = ptv.fit_all(plan, bnn, (x, y), epochs=1, progress=False)
    comparison = compare(fits, (x, y))
    assert [row.elbo_group for row in comparison.rows] == ["a", "a", "b", "c", None, "c"]
    assert comparison.footnotes == (
        SAME,
        SUMMED_OUT,
        _models("priors", "learned hyper-parameters"),
        "where the KL weight is not 1, not the ELBO was maximised (0.1: cold)",
    )
    longer = ptv.fit(bnn, (x, y), engine=svi, epochs=2, seed=3, progress=False)
    footnotes = compare({"svi": fits["svi"], "longer": longer}, (x, y)).footnotes
    assert (
        footnotes[-1]
        == "not like with like in epochs (1: svi | 2: longer); seed (0: svi | 3: longer)"
    )


def test_html_has_the_table_and_the_notes() -> None:
    html = Comparison((_row("<a>", uncut="why"),))._repr_html_()
    assert "<td>&lt;a&gt; [1]</td>" in html
    assert "<p>[1] &lt;a&gt; cannot be cut: why</p>" in html


def test_pandas_has_one_row_a_fit() -> None:
    frame = Comparison((_row("a", error=0.1), _row("b", error=0.2))).to_pandas()
    assert frame.index.tolist() == ["a", "b"]
    assert frame.loc["b", "error"] == 0.2


def test_json_is_standard_even_where_values_are_not_finite() -> None:
    rows = (_row("a", error=0.1, elbo=float("nan"), elbo_kind="bound"),)
    document = json.loads(Comparison(rows).to_json(), parse_constant=pytest.fail)
    assert document["rows"][0]["error"] == 0.1
    assert document["rows"][0]["elbo"] is None
    assert document["footnotes"] == []


def test_the_plot_shows_percent_and_a_line_for_what_is_not_cut() -> None:
    rows = (_row("a", error=0.1, weights_left=0.5), _row("b", error=0.2))
    axes = Comparison(rows).plot().axes[0]
    assert axes.get_ylabel() == "error (%)"
    assert [c.get_label() for c in axes.collections] == ["a"]
    assert np.asarray(axes.collections[0].get_offsets()).tolist() == [[50.0, 10.0]]
    assert axes.lines[-1].get_label() == "b (not cut)"
    assert np.asarray(axes.lines[-1].get_ydata()).tolist() == [20.0, 20.0]
    with pytest.raises(InvalidArgumentError, match="nothing to draw"):
        Comparison(rows[1:]).plot()


def test_supports_of_all_fits_are_drawn_side_by_side() -> None:
    net = _net()
    masks = _masks(net)
    fits = {"all": FakeFit(net, {n: torch.ones_like(m) for n, m in masks.items()})}
    fits |= {"half": FakeFit(net, masks), "uncut": FakeFit(net, masks, can_be_cut=False)}
    comparison = compare(fits, _data())
    titles = [axes.get_title().split("\n") for axes in comparison.plot_supports("0.weight").axes]
    assert titles == [
        ["0.weight: all", "6x4, 100 % left, 6 clusters"],
        ["0.weight: half", "6x4, 50 % left, 3 clusters"],
        ["0.weight: uncut", "6x4, 50 % left, 3 clusters"],
    ]
    assert len(comparison.plot_supports().axes) == 6
    with pytest.raises(SiteError, match=r"unknown weight site; given: w; accepted: 0\.weight, 2\."):
        comparison.plot_supports("w")
    with pytest.raises(InvalidArgumentError, match="nothing to draw"):
        Comparison((_row("a"),)).plot_supports()


def test_impossible_comparisons_are_refused() -> None:
    fits = {"a": FakeFit(_net())}
    with pytest.raises(InvalidArgumentError, match="no fit to compare"):
        compare({}, _data())
    with pytest.raises(InvalidArgumentError, match="different kinds of targets"):
        compare(fits | {"b": FakeFit(_net(), likelihood=Gaussian())}, _data())
    with pytest.raises(InvalidDataError):
        compare(fits, "no data")


FITS = "accepted: {name: fit, ...}, what ptv.fit returned by name"
NO_NAMES = "the fits to compare have no names"


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("fits", "message"),
    [
        (FakeFit(_net()), f"{NO_NAMES}; given: FakeFit; {FITS}"),
        ([FakeFit(_net())] * 2, f"{NO_NAMES}; given: list of FakeFit, FakeFit; {FITS}"),
        ({"a": FakeFit(_net()), "b": _net()}, f"'b' is no fit; given: Sequential; {FITS}"),
        ({}, f"there is no fit to compare; {FITS}"),
    ],
    ids=["one fit", "a list", "a net", "nothing"],
)
def test_what_is_no_mapping_of_fits_is_refused_in_words(fits: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        compare(fits, _data())
    assert str(error.value) == message


def test_a_net_of_integer_inputs_is_cut_like_any_other() -> None:
    net = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(8, 3))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.Normal())
    x, y = torch.randint(10, (12, 2)), torch.randint(3, (12,))
    fit = ptv.fit(bnn, (x, y), engine=engines.Turbo(), epochs=1, progress=False)
    comparison = ptv.compare({"embedding": fit}, (x, y))
    assert comparison.rows[0].uncut is None
    assert comparison.rows[0].parameters == 10 * 4 + 8 * 3 + 3
