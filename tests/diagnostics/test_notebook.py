"""What fits and compressed networks show of themselves in a notebook, and their new pictures."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.diagnostics.notebook import compressed_table, fit_table

X = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
DATA = (X, (X[:, 0] > 0).long())


@pytest.fixture(scope="module")
def fit() -> ptv.Fit:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    prior = priors.by_site(
        {"0.weight": priors.ThreeLayer(supports.Independent(density=0.3), collapse=True)},
        default=priors.Normal(1.0),
    )
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    return ptv.fit(bnn, DATA, engine=engines.SVI(), epochs=2, progress=False)


def test_a_fit_is_a_table_of_its_sites(fit: ptv.Fit) -> None:
    table = fit_table(fit)
    (first, second), (note,) = table.cells, table.notes
    density = (fit.support_probs()["0.weight"] > 0.5).double().mean().item()
    assert first[:3] == ("0.weight", "4x3", f"{density:.2%}")
    assert second[:3] == ("2.weight", "2x4", "")
    assert second[3] == repr(fit.bnn.sites["2.weight"].prior)
    assert note.startswith("Fit by svi (auto_normal): 2 epochs of 30 points in ")
    assert fit._repr_html_() == table.to_html()
    HTMLParser().feed(fit._repr_html_())


def test_a_compressed_network_is_a_table_of_its_costs(fit: ptv.Fit) -> None:
    small = fit.compress(DATA, keep=0.5)
    cells = {row[0]: row[1:] for row in compressed_table(small).cells}
    assert cells["parameters"] == ("26", f"{small.report.parameters}")
    mask = small.masks["0.weight"]
    rows, columns = mask.shape
    assert cells["0.weight"] == ("4x3, 12", f"{rows}x{columns}, {int(mask.sum())} left")
    assert small._repr_html_() == compressed_table(small).to_html()
    assert ptv.Compressed(small.module, small.report, small.masks)._repr_html_()


def test_pictures_of_fits_and_compressed_networks(fit: ptv.Fit) -> None:
    upper, lower = fit.plot_history().axes
    assert upper.lines[0].get_ydata()[-1] == fit.history[-1].elbo  # type: ignore[index]
    assert [line.get_label() for line in lower.lines][-1] == "all weights"
    assert len(fit.plot_weights(3, num_samples=5).axes[0].get_yticklabels()) == 3
    small = fit.compress(DATA, keep=0.5)
    names = [label.get_text() for label in small.plot_costs().axes[0].get_yticklabels()]
    assert names == ["parameters", "operations", "bytes, plain", "latency (ms)"]


def test_pictures_of_comparisons(fit: ptv.Fit) -> None:
    comparison = ptv.compare({"a": fit, "b": fit}, DATA, num_samples=2)
    (axes,) = comparison.plot(size="bytes").axes
    assert [line.get_label() for line in axes.lines][1:] == ["a", "b"]
    assert axes.lines[1].get_xdata()[0] == comparison.rows[0].bytes  # type: ignore[index]
    costs = comparison.plot_costs()
    assert [panel.get_xlabel() for panel in costs.axes] == ["bytes", "latency of one batch (ms)"]
    with pytest.raises(ptv.errors.InvalidArgumentError, match='accepted: "weights_left", "bytes"'):
        comparison.plot(size="metres")
