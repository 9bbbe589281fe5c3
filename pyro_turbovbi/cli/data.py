"""`ptv data`: which data sets are known, where they were found; and fetching the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyro_turbovbi.cli.interruption import on_interrupt
from pyro_turbovbi.data import download
from pyro_turbovbi.data.catalogue import DataSet, catalogue, find
from pyro_turbovbi.data.sources import UCI, sources

KEPT = "files that are complete are kept; to go on, give the same command again"
"""What Ctrl-C leaves of a fetched data set."""


@dataclass(frozen=True)
class Listing:
    """Data sets.

    Attributes:
        sets: In the order in which they are shown.
    """

    sets: tuple[DataSet, ...]

    def to_dict(self) -> Mapping[str, Any]:
        """The data sets."""
        return {"sets": [asdict(each) for each in self.sets]}

    def __str__(self) -> str:
        width = max(len(each.name) for each in self.sets)
        lines = []
        for each in self.sets:
            lines.append(f"{each.name:{width}}  {each.content}")
            lines.append(f"{'':{width}}  {each.found or 'not here; ptv data get ' + each.name}")
        return "\n".join(lines)


def list_data() -> Listing:
    """All data sets that a recipe can name."""
    return Listing(tuple(catalogue()))


def get_data(name: str, to: Path | None = None, *, progress: bool = False) -> Listing:
    """Fetches a data set, unless it is here; one that is not fetched is looked up.

    Args:
        name: One that `list_data` shows, or one UCI set, such as `uci/yacht`.
        to: See `data.download`.
        progress: Whether to show a progress bar.

    Raises:
        InvalidArgumentError: If there is none of that name, or it does not go to a directory.
        DataNotFoundError: If it comes with a package that is not installed; says which.
        TurboVBIError: See `data.download`.
    """
    if to is None and name not in (*sources(), UCI):
        return Listing((find(name),))
    with on_interrupt(lambda: KEPT):
        download(name, to, progress=progress)
    return Listing((find(name.partition("/")[0], to),))


__all__ = ["KEPT", "Listing", "get_data", "list_data"]
