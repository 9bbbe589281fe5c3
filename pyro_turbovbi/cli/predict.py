"""`ptv predict`: what a run says of rows that it has not seen."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch

from pyro_turbovbi._random import seeded
from pyro_turbovbi.cli.numbers import decimals
from pyro_turbovbi.cli.runs import Run
from pyro_turbovbi.data.form import DataForm
from pyro_turbovbi.data.new_rows import read_rows
from pyro_turbovbi.diagnostics.table import Table
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError
from pyro_turbovbi.likelihoods import Categorical
from pyro_turbovbi.persistence.files import write_atomically
from pyro_turbovbi.posterior import Prediction
from pyro_turbovbi.result import NUM_SAMPLES

SHOWN = 10
"""Rows that are printed."""
_LONGEST_NAME = 36
Row: TypeAlias = dict[str, Any]
"""Of one data point: its name as `row`, and what is predicted."""


@dataclass(frozen=True)
class PredictResult:
    """Predictions for new rows.

    Attributes:
        run: The run.
        file: Where the rows come from.
        target: Name of what is predicted; empty if it has none.
        classes: Names of the classes; None if numbers are predicted.
        draws: Posterior draws that they average over; 0: the posterior mean alone.
        rows: Of classes `class`, `probability` and `probabilities` by class; of numbers `mean` and
            `sd`, in the target's own unit, the noise of the likelihood included, with `_1`, `_2`,
            ... if there are several.
        out: The CSV file that was written, if one was.
    """

    run: Path
    file: Path
    target: str
    classes: Sequence[str] | None
    draws: int
    rows: Sequence[Row]
    out: Path | None = None

    def to_dict(self) -> Mapping[str, Any]:
        """All fields."""
        return vars(self)

    def to_csv(self) -> str:
        """All rows as comma-separated values with a header; a column a class has its name."""
        text = io.StringIO()
        flat = [_flat(row) for row in self.rows]
        writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return text.getvalue()

    def __str__(self) -> str:
        """What the numbers are, the first rows as a table, and where the others are."""
        shown = self.rows[:SHOWN]
        columns = [name for name in shown[0] if name != "probabilities"]
        texts = {name: _texts([row[name] for row in shown]) for name in columns}
        for name in (name for name in columns if name.startswith("mean")):
            spread = name.replace("mean", "sd")
            places = decimals(row[spread] for row in shown)
            for each in (name, spread):
                texts[each] = [f"{row[each]:,.{places}f}" for row in shown]
        cells = list(zip(*texts.values(), strict=True))
        lines = [self._heading(), "", Table(columns, cells).to_text()]
        if left := len(self.rows) - len(shown):
            where = "" if self.out else "; --out FILE.csv writes all"
            lines.append(f"and {left:,} more rows{where}")
        if self.out:
            lines.append(f"wrote {self.out}: {len(self.rows):,} rows")
        return "\n".join(lines)

    def _heading(self) -> str:
        what = "mean and standard deviation, noise included" if self.classes is None else ""
        what = what or "most probable class and its probability"
        draws = f"{self.draws} posterior draws" if self.draws else "the posterior mean alone"
        return f"{f'{self.target}: ' if self.target else ''}{what}, from {draws}"


def predict_rows(
    directory: Path, file: Path, out: Path | None = None, *, draws: int = NUM_SAMPLES
) -> PredictResult:
    """Predicts new rows by the posterior predictive of a run, in the units of its data.

    The data of the training are not needed. The same command gives the same numbers.

    Args:
        directory: The run.
        file: The rows; see `data.new_rows.read_rows`.
        out: A CSV file to write all predictions to; None: none is written.
        draws: Posterior draws to average over; 0: the posterior mean alone.

    Raises:
        InvalidArgumentError: If there is no such run, or no such directory for `out`.
        UnsupportedError: If the net predicts several classes a row.
        TurboVBIError: See `runs.Run.load_fit`, `data.new_rows.read_rows` and `Fit.predict`.
    """
    if out is not None and not out.absolute().parent.is_dir():
        raise InvalidArgumentError(
            "there is no such directory", given=str(out), accepted="a file in one that exists"
        )
    run = Run(directory)
    recipe, fit = run.load_fit()
    form = run.data_form(recipe)
    rows = read_rows(file, form, resize=recipe.data.get("size") is not None)
    with seeded(0):
        prediction = fit.predict(rows.x, draws)
    classes, values = _in_words(prediction, form)
    found = [{"row": name, **value} for name, value in zip(rows.names, values, strict=True)]
    result = PredictResult(directory, file, form.target, classes, draws, found, out)
    if out is not None:
        write_atomically(out, result.to_csv().encode())
    return result


def _in_words(prediction: Prediction, form: DataForm) -> tuple[list[str] | None, list[Row]]:
    """Names of the classes, if it is about classes, and what is predicted for every row."""
    if prediction.likelihood.kind != "classification":
        return None, _amounts(prediction, form)
    probs = prediction.probs
    if not isinstance(prediction.likelihood, Categorical):  # P(y = 1), of each target
        probs = probs.unsqueeze(-1) if probs.dim() == 1 else probs
        probs = torch.cat([1.0 - probs, probs], dim=-1) if probs.shape[1:] == (1,) else probs[:0]
    if probs.dim() != 2 or not len(probs):
        raise UnsupportedError(
            "the network predicts more than one class a row",
            given=f"probabilities {tuple(prediction.probs.shape)}",
            accepted="Fit.predict in Python",
        )
    known = form.classes or ()
    names = [*known, *map(str, range(len(known), probs.shape[1]))][: probs.shape[1]]
    return names, [_class(names, row) for row in probs.tolist()]


def _class(names: Sequence[str], probs: Sequence[float]) -> Row:
    best = max(range(len(probs)), key=probs.__getitem__)
    by_name = dict(zip(names, probs, strict=True))
    return {"class": names[best], "probability": probs[best], "probabilities": by_name}


def _amounts(prediction: Prediction, form: DataForm) -> list[Row]:
    """Moments of the predictive law, in the target's own unit."""
    exact = replace(prediction, outputs=prediction.outputs.double())
    sd = exact.std.flatten(1) * form.target_scale
    mean = exact.mean.flatten(1) * form.target_scale + form.target_mean
    ends = [""] if mean.shape[1] == 1 else [f"_{n + 1}" for n in range(mean.shape[1])]
    return [
        {
            f"{name}{end}": value
            for end, *pair in zip(ends, *each, strict=True)
            for name, value in zip(("mean", "sd"), pair, strict=True)
        }
        for each in zip(mean.tolist(), sd.tolist(), strict=True)
    ]


def _flat(row: Row) -> Row:
    """A row without nesting, classes as columns of their own."""
    plain = {name: value for name, value in row.items() if name != "probabilities"}
    return plain | {f"p({name})": value for name, value in row.get("probabilities", {}).items()}


def _texts(values: Sequence[Any]) -> list[str]:
    return [f"{v:.3f}" if isinstance(v, float) else _shortened(str(v)) for v in values]


def _shortened(name: str) -> str:
    """A name that fits; of a long one, its end."""
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"


__all__ = ["SHOWN", "PredictResult", "predict_rows"]
