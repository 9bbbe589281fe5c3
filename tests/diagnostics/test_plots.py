from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_turbovbi.diagnostics import plots
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError


def _pixels(figure: Figure) -> np.ndarray[Any, Any]:
    from matplotlib.image import imread

    buffer = BytesIO()
    figure.savefig(buffer)
    buffer.seek(0)
    return imread(buffer)


def _random_mask(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < 0.3


def test_support_matrices_lie_side_by_side_with_labels_and_counts() -> None:
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0]]).bool()
    probs = torch.tensor([[0.9, 0.6, 0.5, 0.1], [0.0, 0.0, 0.0, 1.0]])
    figure = plots.support_matrices(
        {"masks": mask, "probs": probs}, xlabel="pixel", ylabel="unit", heading="Layer"
    )
    left, right, bar = figure.axes
    assert left.get_title() == "masks\n2x4, 37.5 % left, 2 clusters"
    assert right.get_title() == "probs\n2x4, 37.5 % left, 2 clusters"
    assert (left.get_xlabel(), left.get_ylabel()) == ("pixel", "unit")
    assert bar.get_ylabel() == "P(kept)"
    assert figure.get_suptitle() == "Layer"
    for axes, values in ((left, mask), (right, probs)):
        assert np.array_equal(np.asarray(axes.images[0].get_array()), values.float().numpy())
    assert left.get_position().y0 == right.get_position().y0
    assert left.get_position().x1 < right.get_position().x0


@pytest.mark.parametrize("shape", [(3, 5), (40, 64), (300, 784)])
def test_every_element_covers_whole_pixels(shape: tuple[int, int]) -> None:
    mask = _random_mask(*shape)
    figure = plots.support_matrices({"a": mask})
    picture = _pixels(figure)
    box = figure.axes[0].get_window_extent()
    rows, cols = shape
    height, width = box.height / rows, box.width / cols
    assert height == pytest.approx(round(height))
    assert width == pytest.approx(round(width))
    # The frame covers the outermost pixels, so look at the elements inside it.
    top = picture.shape[0] - round(box.y1)
    y = [top + int((i + 0.5) * height) for i in range(1, rows - 1)]
    x = [round(box.x0) + int((j + 0.5) * width) for j in range(1, cols - 1)]
    dark = picture[np.ix_(y, x)][..., 0] < 0.5
    assert np.array_equal(dark, mask[1:-1, 1:-1].numpy())


def test_wide_matrices_go_below_each_other() -> None:
    figure = plots.support_matrices({name: _random_mask(20, 900) for name in "ab"})
    first, second = figure.axes[:2]
    assert first.get_position().x0 == second.get_position().x0
    assert first.get_position().y0 > second.get_position().y1


@pytest.mark.parametrize(
    ("shape", "matrix"), [((7,), (1, 7)), ((4, 2, 3, 3), (4, 18)), ((4, 0), None)]
)
def test_weights_are_viewed_as_matrices(
    shape: tuple[int, ...], matrix: tuple[int, int] | None
) -> None:
    if matrix is None:
        with pytest.raises(ShapeError, match="no element"):
            plots.support_matrices({"a": torch.zeros(shape)})
        return
    figure = plots.support_matrices({"a": torch.ones(shape)})
    assert np.asarray(figure.axes[0].images[0].get_array()).shape == matrix


def test_column_ticks_stand_at_image_rows() -> None:
    figure = plots.support_matrices({"a": _random_mask(10, 64)}, column_ticks=16)
    assert figure.axes[0].get_xticks().tolist() == [0, 16, 32, 48]


def test_layers_stand_side_by_side_each_at_its_own_scale() -> None:
    masks = {
        "wide": _random_mask(100, 784),
        "small": _random_mask(10, 20),
        "conv": _random_mask(4, 2, 3, 3),
    }
    figure = plots.layer_supports({name: {"": mask} for name, mask in masks.items()}, heading="Net")
    wide, small, conv = figure.axes  # and no colour bar
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == list(masks)
    assert (wide.get_xlabel(), wide.get_ylabel()) == ("input", "unit")
    assert (conv.get_xlabel(), conv.get_ylabel()) == ("input channel x place", "output channel")
    assert np.asarray(conv.images[0].get_array()).shape == (4, 18)
    # There is room beside the wide one.
    assert wide.get_position().y1 == pytest.approx(small.get_position().y1)
    assert small.get_position().y0 > conv.get_position().y1
    assert min(axes.get_window_extent().width for axes in figure.axes) >= 200
    for axes, mask in zip(figure.axes, masks.values(), strict=True):
        shown = np.asarray(axes.images[0].get_array())
        assert np.array_equal(shown, mask.flatten(1).float().numpy())
    with pytest.raises(InvalidArgumentError, match="nothing to draw"):
        plots.layer_supports({})


def test_stages_of_a_layer_stay_in_one_row_while_there_is_room() -> None:
    def stages(cols: int) -> dict[str, torch.Tensor]:
        return {"before": _random_mask(20, cols), "cut": _random_mask(7, cols // 2)}

    figure = plots.layer_supports({"a": stages(784), "b": stages(60), "c": stages(2000)})
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles == [f"{layer}: {stage}" for layer in "abc" for stage in ("before", "cut")]
    tops = [round(axes.get_position().y1, 9) for axes in figure.axes]
    assert tops[0] == tops[1] > tops[2] == tops[3] > tops[4] > tops[5]


def test_long_names_stay_within_their_panels() -> None:
    names = [f"transformer.blocks.{i}.attention.output.projection.weight" for i in range(3)]
    figure = plots.layer_supports({name: {"before": _random_mask(9, 9)} for name in names})
    figure.canvas.draw()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert boxes[0].x0 >= 0
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert boxes[-1].x1 <= figure.bbox.x1


def test_before_and_after_stand_in_one_row_a_fit() -> None:
    pairs = {name: (_random_mask(5, 6), torch.full((4, 2), 0.2)) for name in ("x", "y")}
    figure = plots.support_before_after(pairs, labels=("prior", "posterior"))
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes[:4]]
    assert titles == ["x: prior", "x: posterior", "y: prior", "y: posterior"]
    first, second, third, _ = (axes.get_position() for axes in figure.axes[:4])
    assert first.y1 == pytest.approx(second.y1)
    assert min(first.y0, second.y0) > third.y1
    assert first.x0 == third.x0 < second.x0


def test_elbo_curves_have_their_values_and_their_own_look() -> None:
    curves = {"a": [-30.0, -20.0, -15.0], "b": [-40.0, -25.0]}
    figure = plots.elbo_curves(curves)
    (axes,) = figure.axes
    for line, (name, values) in zip(axes.lines, curves.items(), strict=True):
        assert line.get_label() == name
        assert np.asarray(line.get_xdata()).tolist() == list(range(1, len(values) + 1))
        assert np.asarray(line.get_ydata()).tolist() == values
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 2
    assert axes.get_yscale() == "linear"
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([-1e6, -1e4], "symlog"),
        ([-100.0, 4.0], "symlog"),
        ([-20.0, -1.0], "linear"),
        ([0.0, 0.0], "linear"),
        ([float("nan"), -3.0], "linear"),
    ],
)
def test_the_elbo_axis_is_logarithmic_where_values_span_much(
    values: Sequence[float], scale: str
) -> None:
    figure = plots.elbo_curves({"a": values})
    assert figure.axes[0].get_yscale() == scale
    assert _pixels(figure).shape[:2] == (460, 720)


def test_pareto_front_against_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        values = torch.randint(0, 6, (12, 2), generator=generator).tolist()
        points = [(float(a), float(b)) for a, b in values]
        expected = {
            p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)
        }
        front = plots.pareto_front(points)
        assert set(front) == expected
        assert front == sorted(front)


def test_pareto_shows_every_fit_in_percent_and_the_front() -> None:
    points = {"a": (0.02, 3.0), "b": (0.05, 4.0), "c": (1.0, 2.0)}
    (axes,) = plots.pareto(points, error_label="error (%)").axes
    assert [c.get_label() for c in axes.collections] == ["a", "b", "c"]
    offsets = [np.asarray(c.get_offsets())[0].tolist() for c in axes.collections]
    assert offsets == [[2.0, 3.0], [5.0, 4.0], [100.0, 2.0]]
    (front,) = axes.lines
    assert np.asarray(front.get_xdata()).tolist() == [2.0, 100.0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("weights left (%)", "error (%)")
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[0] == 0.0


def test_markers_of_the_front_are_filled_and_all_looks_differ() -> None:
    points = {f"fit {i}": (0.1 * (i + 1), abs(4.0 - i)) for i in range(8)}
    figure = plots.pareto(points, uncut={"attention": 2.5})
    (axes,) = figure.axes
    filled = [np.asarray(c.get_facecolor()).size > 0 for c in axes.collections]
    assert filled == [True] * 5 + [False] * 3
    looks = {
        (tuple(np.asarray(c.get_edgecolor())[0]), len(c.get_paths()[0].vertices))
        for c in axes.collections
    }
    assert len(looks) == 8
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert sorted(texts) == sorted([*points, "Pareto front (filled)", "attention (not cut)"])


def test_masks_stand_site_by_site_in_rows_of_like_lengths() -> None:
    masks = {f"fit {i}": _random_mask(50, 64) for i in range(5)}
    few = {name: _random_mask(3, 4) for name in masks}
    figure = plots.support_masks({"0.weight": masks, "2.weight": few}, heading="Masks")
    panels = [axes.get_position() for axes in figure.axes]
    assert len(panels) == 10, "no colour bar"
    tops = [round(panel.y1, 6) for panel in panels]
    assert [tops.count(top) for top in dict.fromkeys(tops)] == [3, 2, 5]
    assert {(round(p.width, 6), round(p.height, 6)) for p in panels[:5]} == {
        (round(panels[0].width, 6), round(panels[0].height, 6))
    }
    assert figure.axes[5].get_title().startswith("2.weight: fit 0\n3x4, ")
    with pytest.raises(InvalidArgumentError, match="nothing to draw"):
        plots.support_masks({})


def test_an_empty_network_stands_at_the_edge_of_the_logarithmic_axis() -> None:
    (axes,) = plots.pareto({"a": (0.0, 90.0), "b": (0.04, 4.0)}).axes
    assert [c.get_label() for c in axes.collections] == ["a (no weight left)", "b"]
    offsets = [np.asarray(c.get_offsets())[0].tolist() for c in axes.collections]
    assert offsets == [[2.0, 90.0], [4.0, 4.0]]
    assert axes.get_xlim()[0] < 2.0


def test_pareto_with_no_error_at_all_can_be_drawn() -> None:
    assert _pixels(plots.pareto({"a": (1.0, 0.0)})).shape[:2] == (460, 720)


def test_bad_input_is_refused() -> None:
    for function in (plots.support_matrices, plots.support_before_after, plots.elbo_curves):
        with pytest.raises(InvalidArgumentError, match="nothing to draw"):
            function({})
    with pytest.raises(InvalidArgumentError, match="nothing to draw"):
        plots.pareto({})
    with pytest.raises(InvalidArgumentError, match=r"outside \[0, 1\]; given: 0 to 2"):
        plots.support_matrices({"a": torch.tensor([[0.0, 2.0]])})
    with pytest.raises(InvalidArgumentError, match=r"outside \[0, 1\]; given: nan"):
        plots.support_matrices({"a": torch.tensor([[0.0, float("nan")]])})
    with pytest.raises(ShapeError, match="no axis"):
        plots.support_matrices({"a": torch.tensor(1.0)})
    with pytest.raises(InvalidArgumentError, match="given: 1 supports; accepted: 2: before, after"):
        plots.support_before_after({"a": [torch.ones(2, 2)]})
    with pytest.raises(InvalidArgumentError, match="the curve 'a' is empty"):
        plots.elbo_curves({"a": []})
    with pytest.raises(InvalidArgumentError, match=r"given: 1.1; accepted: \[0, 1\]"):
        plots.pareto({"a": (1.1, 0.1)})


def test_matplotlib_is_imported_by_drawing_alone_and_pyplot_never(tmp_path: Path) -> None:
    script = (
        "import sys, pyro_turbovbi\n"
        "from pyro_turbovbi.diagnostics import plots\n"
        "assert not any(m.split('.')[0] == 'matplotlib' for m in sys.modules)\n"
        "plots.elbo_curves({'a': [1.0, 2.0]}).savefig(sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(plots.__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.png")], check=True, cwd=root, timeout=120
    )
    assert (tmp_path / "a.png").stat().st_size > 0
