from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from pyro_turbovbi.diagnostics.cost_plots import cost_bars, cost_comparison, error_against_bytes
from pyro_turbovbi.errors import InvalidArgumentError


def _widths(axes: object) -> list[float]:
    patches = axes.patches  # type: ignore[attr-defined]
    return [patch.get_width() for patch in patches if isinstance(patch, Rectangle)]


def test_bars_are_percents_with_both_numbers_beside_them() -> None:
    (axes,) = cost_bars({"bytes": (2000.0, 50.0), "time (ms)": (0.5, 0.75)}).axes
    assert _widths(axes) == pytest.approx([2.5, 150.0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bytes", "time (ms)"]
    assert [text.get_text() for text in axes.texts] == ["50 of 2,000", "0.75 of 0.5"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first is on top"
    assert axes.get_xlim()[1] > 150.0


def test_networks_side_by_side_have_a_panel_a_cost() -> None:
    costs = {"bytes": {"a": 10.0, "b": 200.0}, "ms": {"a": 0.1}}
    figure = cost_comparison(costs, heading="Costs")
    assert [axes.get_xlabel() for axes in figure.axes] == ["bytes", "ms"]
    assert _widths(figure.axes[0]) == [10.0, 200.0]
    assert figure.get_suptitle() == "Costs"


@pytest.mark.parametrize("largest", [3000.0, 3_000_000.0])
def test_the_front_of_error_against_bytes_is_filled(largest: float) -> None:
    points = {"small": (1000.0, 5.0), "worse": (2000.0, 6.0), "large": (largest, 1.0)}
    figure = error_against_bytes(points, error_label="error (%)")
    (axes,) = figure.axes
    front, *fits = axes.lines
    assert np.asarray(front.get_xdata()).tolist() == [1000.0, largest]
    filled = [line.get_label() for line in fits if line.get_markerfacecolor() != "none"]
    assert filled == ["small", "large"]
    assert axes.get_xscale() == "log"
    figure.canvas.draw()
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert "1,000" in ticks
    assert axes.get_ylabel() == "error (%)"


def test_bad_input_is_refused() -> None:
    for function in (cost_bars, cost_comparison, error_against_bytes):
        with pytest.raises(InvalidArgumentError, match="nothing to draw"):
            function({})
    with pytest.raises(InvalidArgumentError, match="nothing to draw"):
        cost_comparison({"bytes": {}})
    with pytest.raises(InvalidArgumentError, match=r"'a' is no cost; given: 0\.0 and 1\.0"):
        cost_bars({"a": (0.0, 1.0)})
    with pytest.raises(InvalidArgumentError, match=r"given: 0\.0; accepted: positive"):
        error_against_bytes({"a": (0.0, 1.0)})
