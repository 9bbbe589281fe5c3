"""Several fits side by side on one test set."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyro_turbovbi._random import seeded
from pyro_turbovbi.batches import as_tensors, kind_of
from pyro_turbovbi.diagnostics._fairness import (
    elbo_groups,
    elbo_remarks,
    likelihood_words,
    training_remark,
)
from pyro_turbovbi.diagnostics.cost_plots import cost_comparison, error_against_bytes
from pyro_turbovbi.diagnostics.evaluation import (
    evaluate_prediction,
    observed,
    outputs_of,
    point_error,
)
from pyro_turbovbi.diagnostics.plots import pareto, support_masks
from pyro_turbovbi.diagnostics.protocols import FitLike, site_priors
from pyro_turbovbi.diagnostics.table import Table
from pyro_turbovbi.errors import InvalidArgumentError, SiteError, UnsupportedError
from pyro_turbovbi.likelihoods import Likelihood
from pyro_turbovbi.training import Training

if TYPE_CHECKING:
    import matplotlib.figure

TOLERANCE = 0.01
"""Nats a data point that rounding may cost on the validation data, unless told otherwise."""
_CAPTION = (
    "error/rmse, NLL (nats a point) and ECE: posterior predictive; "
    "pruned: the compressed network; latency: one batch of at most 256"
)
_FILES = {
    "plain": "plain bytes: its file, every value exact",
    "compact": "compact bytes: its file, weights rounded as far as the validation data tolerate, "
    "as they are in all that is said of the compressed network",
}


@dataclass(frozen=True)
class ComparisonRow:
    """What is known of one fit.

    Attributes:
        name: Name given to the fit.
        engine: Engine that made it.
        num_points: Number of test points.
        error: Fraction of wrong classes of the posterior predictive; None unless a classification.
        rmse: Root mean square error of the predictive mean; None for a classification.
        pruned: Error (or RMSE) of the compressed network; None if it cannot be cut, as all below.
        nll: Mean negative log predictive density per point, in nats.
        ece: Expected calibration error; None unless a classification.
        weights_left: Fraction of weights left.
        structure: Widths of the compressed network, such as `"353-95-92"`.
        clusters: Number of maximal runs of kept weights along the rows.
        mean_cluster_length: Mean length of those runs.
        parameters: Number of parameters of the compressed network.
        flops: Floating-point operations of one forward pass of it.
        bytes: Size of its file, see `coding`.
        coding: `"plain"`: a file of exact values; `"compact"`: weights rounded as far as validation
            data tolerate, and entropy coded.
        latency: Measured seconds of one batch.
        seconds: Training time in wall-clock seconds.
        elbo: Final evidence lower bound in nats; None where the engine has none.
        elbo_kind: What `elbo` is: `"bound"`, `"Bethe"` or `"log joint"`.
        elbo_group: A letter: ELBOs of the same letter bound the same log-evidence and can be
            ranked. None where there is no ELBO or it is no bound.
        likelihood: The likelihood, in words.
        priors: Prior of every weight site, in words.
        learned: Sites whose prior's hyper-parameters were learned.
        training: Epochs, batch size, data, seed and start of the training.
        uncut: Why the network could not be compressed; None if it was.
    """

    name: str
    engine: str
    num_points: int
    seconds: float
    nll: float
    error: float | None = None
    rmse: float | None = None
    ece: float | None = None
    pruned: float | None = None
    weights_left: float | None = None
    structure: str | None = None
    clusters: int | None = None
    mean_cluster_length: float | None = None
    parameters: int | None = None
    flops: int | None = None
    bytes: int | None = None
    coding: str | None = None
    latency: float | None = None
    elbo: float | None = None
    elbo_kind: str | None = None
    elbo_group: str | None = None
    likelihood: str = ""
    priors: Mapping[str, str] = field(default_factory=dict)
    learned: tuple[str, ...] = ()
    training: Training | None = None
    uncut: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A table of fits, one row each; prints, shows itself in notebooks, and exports.

    Attributes:
        rows: The rows in the order in which the fits were given.
        masks: Which weights each fit keeps, by name of the fit and of the site.
    """

    rows: tuple[ComparisonRow, ...]
    masks: Mapping[str, Mapping[str, Tensor]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def footnotes(self) -> tuple[str, ...]:
        """Remarks on the rows.

        Networks that cannot be cut, which ELBOs can be held against each other, and in what the
        trainings differed.
        """
        return tuple(note.text for note in _footnotes(self.rows))

    def __str__(self) -> str:
        return self.table().to_text()

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        return self.table().to_html()

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame` indexed by name, one column for each field of a row.

        Raises:
            ModuleNotFoundError: If pandas is not installed.
        """
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows]).set_index("name")

    def to_json(self) -> str:
        """The rows and footnotes as JSON; values that are not finite become null."""
        rows = [{key: _json_value(v) for key, v in asdict(row).items()} for row in self.rows]
        return json.dumps({"rows": rows, "footnotes": self.footnotes}, indent=2, allow_nan=False)

    def plot(self, size: str = "weights_left") -> matplotlib.figure.Figure:
        """Draws error against size, with the Pareto front.

        Against weights left the error is that of the posterior predictive, and a network that could
        not be cut, which has no place on that axis, is a line. Against bytes it is the error of the
        compressed network.

        Args:
            size: `"weights_left"`, or `"bytes"` of the file.

        Raises:
            InvalidArgumentError: If no network could be cut, or the size is unknown.
        """
        if size == "bytes":
            return self._plot_bytes()
        if size != "weights_left":
            raise InvalidArgumentError(
                "unknown size", given=size, accepted='"weights_left", "bytes"'
            )
        name = "rmse" if self.rows[0].error is None else "error"
        unit = 1 if name == "rmse" else 100
        errors = {row.name: unit * getattr(row, name) for row in self.rows}
        left = {row.name: row.weights_left for row in self.rows}
        return pareto(
            {fit: (share, errors[fit]) for fit, share in left.items() if share is not None},
            error_label="RMSE" if name == "rmse" else "error (%)",
            uncut={fit: errors[fit] for fit, share in left.items() if share is None},
        )

    def plot_costs(self) -> matplotlib.figure.Figure:
        """Draws bytes and latency of the compressed networks as bars.

        Raises:
            InvalidArgumentError: If no network could be cut.
        """
        costs = {
            "bytes": {row.name: float(row.bytes) for row in self.rows if row.bytes is not None},
            "latency of one batch (ms)": {
                row.name: 1000 * row.latency for row in self.rows if row.latency is not None
            },
        }
        return cost_comparison({name: values for name, values in costs.items() if values})

    def plot_supports(self, site: str | None = None) -> matplotlib.figure.Figure:
        """Draws which weights each fit keeps, all fits side by side.

        Args:
            site: Name of the weight to draw; None draws all, one below the other.

        Raises:
            SiteError: If no fit has a weight of that name.
        """
        sites = list(dict.fromkeys(name for masks in self.masks.values() for name in masks))
        if site is not None and site not in sites:
            raise SiteError("unknown weight site", given=site, accepted=sites)
        return support_masks(
            {
                name: {fit: masks[name] for fit, masks in self.masks.items() if name in masks}
                for name in ([site] if site is not None else sites)
            }
        )

    def _plot_bytes(self) -> matplotlib.figure.Figure:
        classes = self.rows[0].error is not None
        unit = 100 if classes else 1
        return error_against_bytes(
            {
                row.name: (float(row.bytes), unit * row.pruned)
                for row in self.rows
                if row.bytes is not None and row.pruned is not None
            },
            error_label="error (%)" if classes else "RMSE",
        )

    def table(self) -> Table:
        """The printed table: only columns in which a row has a value, and the notes below."""
        columns = [c for c in _COLUMNS if any(c.of(row) is not None for row in self.rows)]
        notes = _footnotes(self.rows)
        cells = [[column.cell(row, notes) for column in columns] for row in self.rows]
        codings = {row.coding for row in self.rows}
        files = [text for coding, text in _FILES.items() if coding in codings]
        lines = [_CAPTION, *files, *(note.mark + note.text for note in notes)]
        return Table([column.header for column in columns], cells, lines)


def compare(
    fits: Mapping[str, FitLike],
    test: Any,
    *,
    validation: Any | None = None,
    tolerance: float = TOLERANCE,
    num_samples: int = 32,
    seed: int = 0,
) -> Comparison:
    """Evaluates and compresses several fits on one test set.

    Args:
        fits: Fits by the name that they get in the table.
        test: Test data: `DataLoader`, `Dataset` or pair of tensors. Its inputs also verify the
            compressed networks.
        validation: Validation data. With them the weights of the compressed networks are rounded by
            `Compressed.quantise`, and bytes are those of compact files; without, of plain ones.
        tolerance: By how much rounding may increase the mean negative log-likelihood of the
            validation data, in nats a data point.
        num_samples: Posterior draws that a predictive distribution averages over.
        seed: Seed of those draws; the global random state is left as it was.

    Returns:
        One row a fit. A network that cannot be cut has empty cells and a footnote that says why.
        Footnotes also say which ELBOs can be ranked, and where the trainings were not alike.

    Raises:
        InvalidArgumentError: If there is no fit, one is none, or they predict different kinds of
            targets.
        InvalidDataError: If the test set is empty or of an unknown kind, or targets are outside the
            domain of a likelihood.
        ShapeError: If targets do not fit the outputs of a net.
        UnsupportedError: If there are validation data and the extra `compress` is not installed.
    """
    _check_fits(fits)
    kinds = {name: fit.bnn.likelihood.kind for name, fit in fits.items()}
    if len({kind == "classification" for kind in kinds.values()}) > 1:
        raise InvalidArgumentError(
            "fits with different kinds of targets", given=kinds, accepted="fits of one data set"
        )
    x, y = as_tensors(test)
    groups = elbo_groups(fits)
    rounded = _rounding(validation, tolerance)
    rows, masks = [], {}
    for name, fit in fits.items():
        with seeded(seed):
            row = _row(name, fit, x, y, num_samples, rounded)
            rows.append(replace(row, elbo_group=groups[name]))
            masks[name] = fit.masks()
    return Comparison(tuple(rows), masks)


def _check_fits(fits: object) -> None:
    accepted = "{name: fit, ...}, what ptv.fit returned by name"
    if not isinstance(fits, Mapping):
        raise InvalidArgumentError(
            "the fits to compare have no names", given=kind_of(fits), accepted=accepted
        )
    if not fits:
        raise InvalidArgumentError("there is no fit to compare", accepted=accepted)
    for name, fit in fits.items():
        if not isinstance(fit, FitLike):
            raise InvalidArgumentError(f"{name!r} is no fit", given=kind_of(fit), accepted=accepted)


def _rounding(validation: Any, tolerance: float) -> Callable[[Any], Any]:
    """What is done with a compressed network before it is looked at."""
    if validation is None:
        return lambda small: small
    points = as_tensors(validation)
    return lambda small: small.quantise(points, tolerance=tolerance)


def _row(
    name: str, fit: FitLike, x: Any, y: Tensor, num_samples: int, rounded: Callable[[Any], Any]
) -> ComparisonRow:
    prediction = fit.predict(x, num_samples=num_samples)
    metrics = evaluate_prediction(prediction, y)
    return ComparisonRow(
        name=name,
        engine=fit.engine_name,
        num_points=metrics.num_points,
        seconds=fit.seconds,
        nll=metrics.nll,
        error=metrics.error,
        rmse=metrics.rmse,
        ece=metrics.ece,
        elbo=fit.elbo,
        elbo_kind=None if fit.elbo is None else fit.elbo_kind,
        likelihood=likelihood_words(fit.bnn.likelihood),
        priors=site_priors(fit),
        learned=tuple(fit.learned),
        training=fit.training,
        **_cut(fit, x, y, rounded),
    )


def _cut(fit: FitLike, x: Any, y: Tensor, rounded: Callable[[Any], Any]) -> dict[str, Any]:
    """The fields of a row that need the compressed network."""
    if not isinstance(x, Tensor):
        return {"uncut": f"it has {len(x)} inputs"}
    try:
        exact = fit.compress((x, y))
    except UnsupportedError as error:
        return {"uncut": str(error)}
    compressed = rounded(exact)
    report = compressed.report
    return {
        "pruned": _module_error(compressed.module, fit.bnn.likelihood, x, y),
        "weights_left": report.weights_left,
        "structure": str(report.structure),
        "clusters": report.regularity_total.clusters,
        "mean_cluster_length": report.regularity_total.mean_cluster_length,
        "parameters": report.parameters,
        "flops": report.flops,
        "bytes": report.bytes,
        "coding": report.coding,
        "latency": report.latency,
    }


def _module_error(module: nn.Module, likelihood: Likelihood, x: Tensor, y: Tensor) -> float:
    output = outputs_of(module, x)
    with torch.no_grad():
        target = observed(likelihood, y, output)
        return point_error(likelihood, likelihood.mean(output), target)[1]


@dataclass(frozen=True)
class _Note:
    """A line below the table.

    Attributes:
        text: The line.
        mark: What stands in front of it and in its cells, empty where it concerns all.
        cells: The (row, column) cells that it belongs to.
    """

    text: str
    mark: str = ""
    cells: frozenset[tuple[str, str]] = frozenset()


def _footnotes(rows: Sequence[ComparisonRow]) -> list[_Note]:
    """Notes on cells, numbered, and then those on the whole."""
    on_cells = [
        (f"{row.name} cannot be cut: {row.uncut}", {(row.name, "name")})
        for row in rows
        if row.uncut is not None
    ]
    bethe = {(row.name, "elbo_kind") for row in rows if row.elbo_kind == "Bethe"}
    if bethe:
        text = "Bethe: an approximation of the log-evidence, no bound of it, and so not ranked"
        on_cells.append((text, bethe))
    notes = [
        _Note(text, f"[{i}] ", frozenset(cells))
        for i, (text, cells) in enumerate(on_cells, start=1)
    ]
    unlike = training_remark(rows)
    return [*notes, *map(_Note, elbo_remarks(rows)), *([_Note(unlike)] if unlike else [])]


@dataclass(frozen=True)
class _Column:
    """A column of the printed table: the field, its header and how a value is written."""

    key: str
    header: str
    show: Callable[[Any], str]
    value: Callable[[ComparisonRow], Any] | None = None

    def of(self, row: ComparisonRow) -> Any:
        """The row's value in this column, None where it has none."""
        return getattr(row, self.key) if self.value is None else self.value(row)

    def cell(self, row: ComparisonRow, notes: Sequence[_Note]) -> str:
        """The text of a cell, with the numbers of the notes that belong to it."""
        value = self.of(row)
        here = (row.name, self.key)
        marks = [note.mark.strip() for note in notes if here in note.cells]
        return " ".join([*([] if value is None else [self.show(value)]), *marks])


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _whole(value: int | float) -> str:
    return f"{value:,.0f}"


def _decimals(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f}"


def _bytes_if(row: ComparisonRow, coding: str) -> int | None:
    return row.bytes if row.coding == coding else None


_COLUMNS = (
    _Column("name", "", str),
    _Column("error", "error\n%", _percent),
    _Column("rmse", "rmse", _decimals(4)),
    _Column("pruned", "pruned\n%", _percent, lambda row: None if row.error is None else row.pruned),
    _Column(
        "pruned", "pruned\nrmse", _decimals(4), lambda row: None if row.rmse is None else row.pruned
    ),
    _Column("nll", "NLL", _decimals(4)),
    _Column("ece", "ECE", _decimals(4)),
    _Column("weights_left", "weights\nleft %", _percent),
    _Column("structure", "structure", str),
    _Column("clusters", "clusters", _whole),
    _Column("mean_cluster_length", "mean\nlength", _decimals(2)),
    _Column("parameters", "parameters", _whole),
    _Column("flops", "FLOPs", _whole),
    _Column("bytes", "plain\nbytes", _whole, lambda row: _bytes_if(row, "plain")),
    _Column("bytes", "compact\nbytes", _whole, lambda row: _bytes_if(row, "compact")),
    _Column("latency", "latency\nms", lambda seconds: f"{1000 * seconds:.3f}"),
    _Column("seconds", "train\ns", _decimals(1)),
    _Column("elbo", "ELBO", _decimals(1)),
    _Column("elbo_group", "", str),
    _Column("elbo_kind", "", str),
)


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
