from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors
from pyro_turbovbi.diagnostics import Comparison, ComparisonRow, compare
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError
from pyro_turbovbi.likelihoods import Gaussian
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
    assert (row.elbo, row.elbo_kind, row.priors) == (-12.5, "bound", {"0.weight": "'Normal(1)'"})


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
    (note,) = comparison.footnotes
    assert note == "b cannot be cut: attention cannot be cut; accepted: chains of layers"
    lines = str(comparison).splitlines()
    assert lines[4].startswith("b [1]")
    assert lines[-1] == f"[1] {note}"


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
        latency=0.00123,
        elbo=-1234.56,
        elbo_kind="bound",
    )
    lines = str(Comparison((full,))).splitlines()
    header = " ".join(lines[0].split() + lines[1].split())
    assert header == (
        "error pruned weights mean latency train "
        "% % NLL ECE left % structure clusters length parameters FLOPs bytes ms s ELBO"
    )
    assert " ".join(lines[3].split()) == (
        "a 3.12 4.00 0.5000 0.0123 2.56 3-2 1,234 2.35 56,789 100,000 2,048 1.230 1.0 "
        "-1,234.6 bound"
    )


@pytest.mark.parametrize(
    ("kinds", "priors", "notes"),
    [
        (("bound", "bound"), ("p", "p"), ()),
        (
            ("bound", "exact"),
            ("p", "p"),
            ("not comparable: ELBOs of different kinds (bound, exact)",),
        ),
        (
            ("bound", "Bethe"),
            ("p", "p"),
            (
                "not comparable: ELBOs of different kinds (Bethe, bound); a Bethe value is an "
                "approximation, no lower bound",
            ),
        ),
        (
            ("bound", "bound"),
            ("p", "q"),
            ("not comparable as fits of one model: the priors differ, each ELBO is of its own",),
        ),
    ],
)
def test_elbos_that_cannot_be_compared_are_marked(
    kinds: tuple[str, str], priors: tuple[str, str], notes: tuple[str, ...]
) -> None:
    rows = tuple(
        _row(name, elbo=-1.0, elbo_kind=kind, priors={"w": prior})
        for name, kind, prior in zip("ab", kinds, priors, strict=True)
    )
    comparison = Comparison((*rows, _row("c")))
    assert comparison.footnotes == notes
    table = str(comparison).splitlines()[-len(notes) - 4 :]
    marks = " ".join(f"[{i}]" for i in range(1, len(notes) + 1))
    for line in table[:2]:
        assert line.endswith(" ".join(filter(None, [line.split()[4], marks])))
    assert "[" not in table[2]


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


def test_the_plot_shows_percent_and_leaves_out_what_is_not_cut() -> None:
    rows = (_row("a", error=0.1, weights_left=0.5), _row("b", error=0.2))
    axes = Comparison(rows).plot().axes[0]
    assert axes.get_ylabel() == "error (%)"
    assert [c.get_label() for c in axes.collections] == ["a"]
    assert np.asarray(axes.collections[0].get_offsets()).tolist() == [[50.0, 10.0]]
    with pytest.raises(InvalidArgumentError, match="nothing to draw"):
        Comparison(rows[1:]).plot()


def test_impossible_comparisons_are_refused() -> None:
    fits = {"a": FakeFit(_net())}
    with pytest.raises(InvalidArgumentError, match="no fit to compare"):
        compare({}, _data())
    with pytest.raises(InvalidArgumentError, match="different kinds of targets"):
        compare(fits | {"b": FakeFit(_net(), likelihood=Gaussian())}, _data())
    with pytest.raises(InvalidDataError):
        compare(fits, "no data")


def test_a_net_of_integer_inputs_keeps_its_row() -> None:
    """Embeddings cannot be cut: the row says so and the rest of the table stands."""
    net = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(8, 3))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.Normal())
    x, y = torch.randint(10, (12, 2)), torch.randint(3, (12,))
    fit = ptv.fit(bnn, (x, y), engine=engines.Turbo(), epochs=1, progress=False)
    comparison = ptv.compare({"embedding": fit}, (x, y))
    assert comparison.rows[0].structure is None
    assert any("floating-point inputs" in note for note in comparison.footnotes)
