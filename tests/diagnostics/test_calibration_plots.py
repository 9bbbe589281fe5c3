from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch
from torch import nn

from pyro_turbovbi.diagnostics.calibration import reliability
from pyro_turbovbi.diagnostics.calibration_plots import (
    pit_histogram,
    plot_pit,
    plot_reliability,
    reliability_diagram,
)
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    UnsupportedError,
)
from pyro_turbovbi.likelihoods import Bernoulli, Gaussian
from tests.diagnostics.fakes import FakeFit

PROBS = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.55, 0.45]])
LABELS = torch.tensor([0, 1, 1, 0])


def test_the_diagram_shows_every_bin_that_has_points() -> None:
    curve = reliability(PROBS, LABELS, bins=4)
    figure = reliability_diagram({"a": curve})
    upper, lower = figure.axes
    diagonal, line = upper.lines[:2]
    assert np.asarray(diagonal.get_xdata()).tolist() == [0, 1]
    # Bins (0.5, 0.75] and (0.75, 1]; the other two are empty.
    assert np.asarray(line.get_xdata()).tolist() == pytest.approx([0.625, 0.85])
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([1.0, 0.5])
    (counts,) = (p for p in lower.patches if isinstance(p, StepPatch))
    assert np.asarray(counts.get_data().values).tolist() == [0.0, 0.0, 50.0, 50.0]
    legend = upper.get_legend()
    assert legend is not None
    ece = 100 * (0.5 * 0.375 + 0.5 * 0.35)
    assert legend.get_texts()[0].get_text() == f"a (ECE {ece:.2f} %)"
    assert (upper.get_ylabel(), lower.get_xlabel()) == ("accuracy", "confidence")


def test_fits_are_told_apart_without_colour() -> None:
    curve = reliability(PROBS, LABELS)
    upper = reliability_diagram({"a": curve, "b": curve}).axes[0]
    markers = [line.get_marker() for line in upper.lines if line.get_marker() in ("o", "s")]
    assert sorted(map(str, markers)) == ["o", "s"]


def test_the_interval_contains_the_accuracy_and_stays_in_the_unit_interval() -> None:
    curve = reliability(torch.tensor([[0.9, 0.1]]).repeat(8, 1), torch.zeros(8).long())
    upper = reliability_diagram({"a": curve}).axes[0]
    ((low, high),) = ([y for _, y in path] for path in upper.collections[0].get_segments())
    assert 0.5 < low < 1.0
    assert high == 1.0


def test_histograms_have_the_density_of_their_values_and_the_band() -> None:
    values = {"a": torch.tensor([0.0, 0.05, 0.6, 1.0]), "b": torch.linspace(0, 1, 101)}
    figure = pit_histogram(values, bins=4)
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("a", "b")
    heights = next(p for p in first.patches if isinstance(p, StepPatch)).get_data().values
    assert np.asarray(heights).tolist() == [2.0, 0.0, 1.0, 1.0]
    band = first.patches[0].get_extents()
    # Four bins of four points: a bar is 4/4 of a Binomial(4, 1/4), of variance 3/4.
    half = 1.96 * (3 / 4) ** 0.5
    (lowest, highest) = first.transData.inverted().transform(band.get_points())[:, 1]
    assert highest == pytest.approx(1 + half)
    assert lowest == pytest.approx(0.0, abs=1e-9)


def test_fits_are_drawn_on_test_data() -> None:
    x = torch.randn(70, 1)
    labels = (x[:, 0] > 0).float()
    fits = {"binary": FakeFit(nn.Identity(), likelihood=Bernoulli())}
    upper = plot_reliability(fits, (x, labels)).axes[0]
    legend = upper.get_legend()
    assert legend is not None
    probs = torch.cat([1 - x.sigmoid(), x.sigmoid()], 1)
    ece = 100 * reliability(probs, labels.long()).calibration_error
    assert legend.get_texts()[0].get_text() == f"binary (ECE {ece:.2f} %)"
    regressions = {"normal": FakeFit(nn.Identity(), likelihood=Gaussian(1.0))}
    (axes,) = plot_pit(regressions, (x, x[:, 0] + 100.0)).axes
    heights = next(p for p in axes.patches if isinstance(p, StepPatch)).get_data().values
    assert np.asarray(heights).tolist() == [0.0] * 6 + [7.0]
    with pytest.raises(ShapeError, match="under Bernoulli"):
        plot_reliability(fits, (x, labels.expand(2, 70).T))
    with pytest.raises(ShapeError, match="different numbers of rows"):
        plot_pit(regressions, (x, x[:1]))
    with pytest.raises(UnsupportedError, match="class probabilities; given: Gaussian, regression"):
        plot_reliability(regressions, (x, labels))
    with pytest.raises(UnsupportedError, match="continuous targets; given: Bernoulli"):
        plot_pit(fits, (x, labels))


def test_pictures_can_be_written() -> None:
    for figure in (
        reliability_diagram({"a": reliability(PROBS, LABELS)}),
        pit_histogram({"a": torch.rand(50, 2)}),
    ):
        buffer = BytesIO()
        figure.savefig(buffer)
        assert buffer.tell() > 1000


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="nothing to draw"):
        reliability_diagram({})
    with pytest.raises(InvalidArgumentError, match="nothing to draw"):
        pit_histogram({})
    with pytest.raises(InvalidArgumentError, match="too few bins; given: 0"):
        pit_histogram({"a": torch.rand(3)}, bins=0)
    with pytest.raises(
        InvalidDataError, match=r"values of 'a' are no probabilities; given: 2.0 .. 2"
    ):
        pit_histogram({"a": torch.tensor([2.0])})
    with pytest.raises(InvalidDataError, match="given: none"):
        pit_histogram({"a": torch.empty(0)})
