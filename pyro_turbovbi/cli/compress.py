"""`ptv compress`: the smaller network of a run, in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_turbovbi.cli.runs import LoadedRun, Run
from pyro_turbovbi.compression import Compressed
from pyro_turbovbi.data import DataForm, Splits
from pyro_turbovbi.errors import InvalidArgumentError


@dataclass(frozen=True)
class CompressResult:
    """A compressed network that was saved.

    Attributes:
        file: Where it is.
        bytes: Size of the file.
        network: The network and its report.
        data: Names, units and classes of the data that it was trained on.
    """

    file: Path
    bytes: int
    network: Compressed
    data: DataForm

    def to_dict(self) -> Mapping[str, Any]:
        """File, size, all numbers of the report, and the form of the data."""
        report = self.network.report.to_dict()
        data = self.data.to_dict()
        return {"file": self.file, "file_bytes": self.bytes, "report": report, "data": data}

    def __str__(self) -> str:
        net = "" if self.network.surgery is None else ", net=..."
        call = f'ptv.load("{self.file}"{net})'
        text = f"{self.network}\n\n{self.file}: {self.bytes:,} bytes; in Python, {call}"
        if self.data.input_scale is None:
            return text
        return (
            f"{text}\nits inputs: (x - input_mean) / input_scale, by the numbers that --json prints"
        )


def compress_run(
    directory: Path,
    out: Path | None = None,
    *,
    tolerance: float | None = None,
    uncertainty: bool = False,
    reorder: bool = False,
) -> CompressResult:
    """Cuts the network of a run down to what is left of it, and saves it.

    Args:
        directory: The run.
        out: The file; None: `net.ptv` in the run.
        tolerance: Round the weights as far as the mean negative log-likelihood of the validation
            data grows by at most this, in nats a data point; None: every value stays exact.
        uncertainty: Whether the standard deviations travel along.
        reorder: Whether to put similar units next to each other first.

    Raises:
        InvalidArgumentError: If there is no such run, no such directory for the file, or no
            validation data to round by.
        TurboVBIError: See `runs.Run.load`, `Fit.compress`, `Compressed.quantise` and
            `Compressed.save`.
    """
    file = directory / "net.ptv" if out is None else out
    if not file.absolute().parent.is_dir() and out is not None:
        raise InvalidArgumentError(
            "there is no such directory", given=str(out), accepted="a file in one that exists"
        )
    run = Run(directory).load()
    small = run.fit.compress(run.made.train, reorder=reorder)
    if tolerance is not None:
        small = small.quantise(_validation(run), tolerance=tolerance)
    size = small.save(file, uncertainty=uncertainty)
    return CompressResult(file, size, small, DataForm.of(run.made.data))


def _validation(run: LoadedRun) -> Any:
    data = run.made.data
    if not isinstance(data, Splits) or not len(data.validation.x):
        raise InvalidArgumentError(
            "there are no validation data to round the weights by",
            given=type(data).__name__,
            accepted="a run whose recipe has data.Splits as data; or no --tolerance",
        )
    return data.validation


__all__ = ["CompressResult", "compress_run"]
