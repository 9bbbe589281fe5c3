"""`ptv compare`: several runs side by side on their test data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pyro_turbovbi.cli.runs import LoadedRun, Run
from pyro_turbovbi.data import Splits
from pyro_turbovbi.diagnostics import Comparison, compare
from pyro_turbovbi.errors import InvalidArgumentError


def compare_runs(directories: Sequence[Path]) -> Comparison:
    """Compares runs on the test data of their recipe.

    Args:
        directories: The runs; each gets the name of its directory or, where two have one name,
            the path.

    Raises:
        InvalidArgumentError: If there is no such run, or they are of different data, or of data
            without a test part.
        TurboVBIError: See `runs.Run.load`.
    """
    runs = [Run(directory).load() for directory in directories]
    check_same_data(directories, runs)
    data = runs[0].made.data
    if not isinstance(data, Splits) or not len(data.test.x):
        raise InvalidArgumentError(
            "the data of the runs have no test part",
            given=type(data).__name__,
            accepted="runs whose recipe has data.Splits as data",
        )
    names = run_names(directories, runs)
    return compare({name: run.fit for name, run in zip(names, runs, strict=True)}, data.test)


def run_names(directories: Sequence[Path], runs: Sequence[LoadedRun]) -> list[str]:
    """Names of runs: those of their directories or, where two have one name, the paths."""
    times = Counter(run.name for run in runs)
    return [
        run.name if times[run.name] == 1 else str(directory)
        for run, directory in zip(runs, directories, strict=True)
    ]


def check_same_data(directories: Sequence[Path], runs: Sequence[LoadedRun]) -> None:
    """Refuses runs of different data.

    Raises:
        InvalidArgumentError: If the recipes name different data.
    """
    for directory, run in zip(directories, runs, strict=True):
        if run.recipe.data != runs[0].recipe.data:
            raise InvalidArgumentError(
                f"{directory} and {directories[0]} are of different data",
                given=f"{dict(run.recipe.data)} and {dict(runs[0].recipe.data)}",
                accepted="runs of one data set",
            )


__all__ = ["check_same_data", "compare_runs", "run_names"]
