"""`ptv report`: one page about a run, for readers who do not know the method."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_turbovbi.batches import as_tensors
from pyro_turbovbi.cli.compare import check_same_data, run_names
from pyro_turbovbi.cli.interruption import on_interrupt
from pyro_turbovbi.cli.runs import LoadedRun, Run
from pyro_turbovbi.cli.stages import read_stages
from pyro_turbovbi.data import Splits
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.report import SmallNetwork, make_report
from pyro_turbovbi.report.figures import require_matplotlib


@dataclass(frozen=True)
class ReportResult:
    """A page that was written.

    Attributes:
        file: Where it is.
        bytes: Its size.
        network: The file of the small network that it speaks of; None if there is none.
        test_points: Points that errors were measured on; 0 if the run has none.
    """

    file: Path
    bytes: int
    network: Path | None
    test_points: int

    def to_dict(self) -> Mapping[str, Any]:
        """All fields."""
        return vars(self)

    def __str__(self) -> str:
        lines = [f"wrote {self.file}: {self.bytes:,} bytes"]
        if self.network is None:
            lines.append("no small network is in it yet; ptv compress makes one")
        return "\n".join(lines)


def report_runs(
    directories: Sequence[Path], out: Path | None = None, *, show: bool = False
) -> ReportResult:
    """Writes a page about a run.

    Args:
        directories: The run, and others of the same data to compare it with.
        out: The file; None: `report.html` in the run.
        show: Whether to open it in the browser.

    Raises:
        InvalidArgumentError: If there is no such run, no such directory for the file, or the runs
            are of different data.
        UnsupportedError: If matplotlib is not installed.
        TurboVBIError: See `runs.Run.load`.
    """
    require_matplotlib()
    file = directories[0] / "report.html" if out is None else out
    if not file.absolute().parent.is_dir() and out is not None:
        raise InvalidArgumentError(
            "there is no such directory", given=str(out), accepted="a file in one that exists"
        )
    runs = [Run(directory).load() for directory in directories]
    check_same_data(directories, runs)
    names = run_names(directories, runs)
    test = _test(runs[0])
    network = directories[0] / "net.ptv"
    page = make_report(
        runs[0].fit,
        test,
        name=names[0],
        compressed=_small(network, runs[0]) if network.is_file() else None,
        others={name: run.fit for name, run in zip(names[1:], runs[1:], strict=True)},
        stages=read_stages(Run(directories[0]).stages_file),
        recipe=Run(directories[0]).recipe_file.read_text(encoding="utf-8"),
    )
    size = page.save(file)
    if show:  # some browsers run in the terminal, where Ctrl-C is how to leave
        with on_interrupt(lambda: f"the page is complete: {file}"):
            webbrowser.open(file.absolute().as_uri())
    found = network if network.is_file() else None
    return ReportResult(file, size, found, 0 if test is None else len(test.x))


def _test(run: LoadedRun) -> Any:
    data = run.made.data
    return data.test if isinstance(data, Splits) and len(data.test.x) else None


def _small(file: Path, run: LoadedRun) -> SmallNetwork:
    test = _test(run)
    x = as_tensors(run.made.train)[0] if test is None else test.x
    return SmallNetwork.read(file, run.fit, x if isinstance(x, Tensor) else None)


__all__ = ["ReportResult", "report_runs"]
