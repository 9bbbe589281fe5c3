"""Pictures of the frontier: error against size, and the supports of all methods side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.frontier_cases import cases
from benchmarks.frontier_cases.measure import cut
from benchmarks.frontier_cases.methods import GROUP_HS, GROUP_NJ, MAGNITUDE, SPARSE_VD, family
from benchmarks.frontier_cases.recipes import FULL, GRID_ORDER, NARROW
from benchmarks.frontier_cases.runs import Run, kept
from benchmarks.frontier_cases.training import Trained
from pyro_turbovbi.compression.regularity import as_matrix

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.axes import Axes

IMAGES = Path(__file__).parents[2] / "docs" / "images"
#: What the sizes are called, by column of the table.
SIZES = {"weights_left_percent": "weights left, %", "bytes": "file, bytes"}
#: Methods whose supports are drawn, those that were measured.
PICTURED = (
    f"{MAGNITUDE}, 1 %",
    SPARSE_VD,
    GROUP_NJ,
    GROUP_HS,
    "ours, independent",
    GRID_ORDER,
    FULL,
    NARROW,
    f"{FULL}, no teachers",
)
#: Errors above so many times the lowest are left out of the plots.
WORST = 2.0
#: Markers of other methods, by family; all of ours are circles.
MARKERS = "s^vDPX<>*"

Result = Mapping[str, Any]


def frontier(result: Result) -> matplotlib.figure.Figure:
    """Test error against weights left and against bytes, both sizes on logarithmic axes.

    Medians with ranges over seeds; a colour and a line a family of methods, circles for ours and
    other markers for others; hollow: published.

    Args:
        result: A results file of `tables.table`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(10.0, 4.6), layout="constrained")
    rows = [row for row in result["rows"] if _middle(row, "test_error_percent") <= _limit(result)]
    families: dict[str, list[Result]] = {}
    for row in rows:
        if "source" not in row:
            families.setdefault(family(row["method"]), []).append(row)
    styles = _styles(families)
    for axes, (size, label) in zip(figure.subplots(1, 2, sharey=True), SIZES.items(), strict=True):
        for name, found in families.items():
            _curve(axes, found, size, label=name, **styles[name])
        errors: set[float] = set()
        for row in rows:
            if "source" in row and row.get(size) is not None:
                error = float(row["test_error_percent"])
                _published(axes, row, size, above=error not in errors)
                errors.add(error)
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", labelsize="small")
        axes.grid(alpha=0.3)
    figure.axes[0].set(ylabel="test error, %")
    figure.axes[0].set_title(result["case"], loc="left")  # over both; the legend is beside them
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small"
    )
    return figure


def _styles(families: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of every family: those of ours and those of others run separately."""
    styles: dict[str, dict[str, Any]] = {}
    ours = others = 0
    for name in families:
        if name.startswith("ours"):
            styles[name] = {"color": f"C{ours}", "marker": "o", "linewidth": 1.6}
            ours += 1
        else:
            marker = MARKERS[others % len(MARKERS)]
            grey = str(0.25 + 0.1 * (others % 5))
            styles[name] = {"color": grey, "marker": marker, "linewidth": 0.8}
            others += 1
    return styles


def _curve(axes: Axes, rows: Sequence[Result], size: str, **style: Any) -> None:
    """A family: its sizes in order, with their ranges."""
    there = sorted((row for row in rows if row.get(size)), key=lambda row: _middle(row, size))
    if not there:
        return
    x, y = ([_middle(row, key) for row in there] for key in (size, "test_error_percent"))
    arms_x, arms_y = (
        list(zip(*(_arms(row[key]) for row in there), strict=True))
        for key in (size, "test_error_percent")
    )
    axes.errorbar(x, y, arms_y, arms_x, markersize=5, elinewidth=0.6, **style)


def _published(axes: Axes, row: Result, size: str, *, above: bool) -> None:
    x, y = row[size], row["test_error_percent"]
    axes.plot(x, y, "o", color="black", fillstyle="none")
    axes.annotate(
        row["method"].removesuffix(" (published)"), (x, y), fontsize="x-small",
        xytext=(4, 4 if above else -9), textcoords="offset points",
    )  # fmt: skip


def _arms(value: Mapping[str, float]) -> tuple[float, float]:
    """Lengths of an error bar down and up."""
    return value["median"] - value["min"], value["max"] - value["median"]


def _middle(row: Result, column: str) -> float:
    value = row[column]
    return float(value["median"] if isinstance(value, Mapping) else value)


def _limit(result: Result) -> float:
    return WORST * min(_middle(row, "test_error_percent") for row in result["rows"])


def supports(case: str, networks: Mapping[str, Trained]) -> matplotlib.figure.Figure:
    """What is left of the first two weights, one line a method, after re-ordering.

    Rows are units, columns their inputs; all pictures of a weight have the same scale, so that a
    smaller one is a smaller layer.

    Args:
        case: Name of the case.
        networks: Trained networks, by method.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 1.9 * len(networks)), layout="constrained")
    grid = figure.subplots(len(networks), 2, squeeze=False, width_ratios=(1.6, 1.0))
    train, _ = cases.parts(case, "final")
    for line, (method, net) in zip(grid, networks.items(), strict=True):
        small = cut(net, train)
        names = [name for name, _ in net.net.named_parameters() if name in net.masks]
        for axes, name in zip(line, names[:2], strict=True):
            rows, columns = as_matrix(net.masks[name]).shape
            left = as_matrix(small.masks[name])
            axes.imshow(left.numpy(), "Greys", aspect="auto", interpolation="none", vmin=0, vmax=1)
            axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), xticks=[], yticks=[])
            shape = " x ".join(map(str, left.shape))
            axes.set_title(f"{method}: {name}, {shape}, {int(left.sum()):,} left", fontsize=7)
    return figure


def pictured(case: str, seed: int = 0) -> dict[str, Trained]:
    """The networks that are kept of the pictured methods, by method."""
    there = {method: kept(Run(case, method, seed)) for method in PICTURED}
    return {method: net for method, net in there.items() if net is not None}


def save(figure: matplotlib.figure.Figure, name: str) -> str:
    """Write a picture for the documentation; return its path below `docs/`.

    An SVG comes out the same wherever it is made.
    """
    from matplotlib import rc_context

    IMAGES.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": name}):
        metadata = {"Date": None} if name.endswith(".svg") else {}
        figure.savefig(IMAGES / name, dpi=150, metadata=metadata)
    return f"{IMAGES.name}/{name}"
