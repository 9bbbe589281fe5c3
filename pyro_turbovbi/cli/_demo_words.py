"""What the demo says: for readers who have never heard of message passing, in 80 columns."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from textwrap import fill

from pyro_turbovbi.compression import CompressionReport
from pyro_turbovbi.data import Splits
from pyro_turbovbi.diagnostics.comparison import Comparison, ComparisonRow
from pyro_turbovbi.diagnostics.table import Table

MAP, SVI, INDEPENDENT, MARKOV = (
    "MAP",
    "SVI, Gaussian",
    "Turbo, independent",
    "Turbo, Markov chains",
)
_WAYS = {
    MAP: "ordinary training with weight decay: a value a weight",
    SVI: "stock Pyro: a mean and a standard deviation a weight",
    INDEPENDENT: "this package: every weight may go off, by itself",
    MARKOV: "this package: weights beside each other go off together",
}
_HEADERS = ["", "wrong\n%", "after cut\n%", "weights\nleft, %", "units", "file\nbytes", "time\ns"]
_LEGEND = """\
wrong      images that the trained network takes for another digit
after cut  the same for the smaller network: weights that are not needed are
           gone, and so are units (pixels, neurons) that have none left. MAP and
           SVI switch none off: theirs are gone where rounding makes them zero
units      what is left of pixels and neurons, layer by layer
file       the smaller network, weights rounded as far as images that were set
           aside for that tolerate; the whole network takes {dense:,} bytes"""
PICTURES = {
    "support_before_after.png": "weights of the first layer in use before training (all), after "
    "it, and in the smaller network",
    "support_side_by_side.png": "those after training, side by side: single points where each is "
    "by itself, lines where neighbours go together",
    "elbo.png": "how the trainings went. The ELBO, which is maximised, says how well a model "
    "explains the data; each curve is of a model of its own",
    "error_against_size.png": "wrong images against weights left: the lower left is the best",
}
"""What there is to see on each picture."""


def wrote(path: Path, content: str) -> str:
    """A file, and what is in it."""
    return fill(
        f"wrote {path}: {content}",
        width=80,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def beginning(splits: Splits, widths: tuple[int, ...], epochs: int) -> str:
    """What is about to happen."""
    weights = sum(inputs * outputs for inputs, outputs in pairwise(widths))
    name_width = max(map(len, _WAYS))
    ways = "\n".join(f"  {name:{name_width}}  {what}" for name, what in _WAYS.items())
    return (
        f"A network of {weights:,} weights learns to read digits from "
        f"{len(splits.train.x):,} images.\n"
        f"It is trained in four ways, {epochs} passes over the images each:\n\n{ways}\n"
    )


def results(comparison: Comparison, points: int, dense: int) -> str:
    """What came of it.

    Args:
        comparison: The four fits.
        points: Images that they were tested on.
        dense: Bytes of the file of the whole network.
    """
    table = Table(_HEADERS, [_cells(row) for row in comparison.rows])
    legend = _LEGEND.format(dense=dense)
    return f"\nOn {points:,} images that no training has seen:\n\n{table.to_text()}\n\n{legend}\n"


def artifact(path: Path, size: int, report: CompressionReport, error: float) -> str:
    """The saved network, and what it achieves when it is loaded again."""
    content = (
        f"the smaller network of the Markov chains, {size:,} bytes for {report.weights_left:.2%} "
        "of the weights. ptv.load makes an ordinary PyTorch module of it: loaded again, it reads "
        f"{1.0 - error:.2%} of the test images right"
    )
    return f"{wrote(path, content)}\n\nWith data of your own: ptv init --help"


def _cells(row: ComparisonRow) -> list[str]:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f}"

    return [
        row.name,
        percent(row.error),
        percent(row.pruned),
        percent(row.weights_left),
        row.structure or "-",
        "-" if row.bytes is None else f"{row.bytes:,}",
        f"{row.seconds:.1f}",
    ]
