"""`ptv data`: which data sets are known, where they were found, and how to get them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pyro_turbovbi.data.catalogue import DataSet, catalogue, find


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


def get_data(name: str) -> Listing:
    """One data set that is here.

    Raises:
        InvalidArgumentError: If there is none of that name.
        DataNotFoundError: If it is not on this machine; says how to get it.
    """
    return Listing((find(name),))


__all__ = ["Listing", "get_data", "list_data"]
