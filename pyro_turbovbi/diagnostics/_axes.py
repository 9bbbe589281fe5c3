"""The look that all curves share: colours, markers, one pair of axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_turbovbi.diagnostics._panels import DPI
from pyro_turbovbi.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import matplotlib.axes
    import matplotlib.figure

#: Okabe and Ito's colours, told apart without colour vision too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: One more than colours, so that the combinations repeat late.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES = ("-", "--", "-.", (0, (1, 1)))
#: Where a logarithmic axis has numbers, within every decade.
LABELLED_MULTIPLES = (1.0, 2.0, 5.0)


def new_figure(height: float = 4.6, width: float = 7.2) -> matplotlib.figure.Figure:
    """An empty figure that pyplot does not know of; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def style(axes: matplotlib.axes.Axes, heading: str, xlabel: str, ylabel: str) -> None:
    """Titles, labels, a light grid behind the data, and no frame on the open sides."""
    axes.set_title(heading, fontsize=12)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)


def single_axes(
    heading: str, xlabel: str, ylabel: str
) -> tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]:
    """A figure with one pair of styled axes."""
    figure = new_figure()
    axes = figure.add_subplot()
    style(axes, heading, xlabel, ylabel)
    return figure, axes


def require(items: Mapping[str, object]) -> None:
    """Refuse pictures of nothing.

    Raises:
        InvalidArgumentError: If there is no item.
    """
    if not items:
        raise InvalidArgumentError("there is nothing to draw", accepted="at least one entry")


def scale_elbo_axis(axes: matplotlib.axes.Axes, values: Sequence[float]) -> None:
    """Symmetric-logarithmic where the values span more than a factor of 20, linear elsewhere."""
    magnitudes = [abs(value) for value in values if value != 0.0]
    if magnitudes and max(magnitudes) > 20 * min(magnitudes):
        from matplotlib.ticker import SymmetricalLogLocator

        threshold = max(1.0, min(magnitudes))
        axes.set_yscale("symlog", linthresh=threshold)
        axes.yaxis.set_major_locator(
            SymmetricalLogLocator(base=10, linthresh=threshold, subs=LABELLED_MULTIPLES)
        )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
