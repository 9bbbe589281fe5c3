"""Maximum a posteriori: the point that stock training with a penalty finds."""

from __future__ import annotations

from dataclasses import dataclass

from pyro_turbovbi.engines.svi import SVI


@dataclass(frozen=True)
class MAP(SVI):
    """MAP weights: stock SVI with Pyro's `AutoDelta`, so that any continuous prior works.

    Args: see `SVI`; the guide is fixed.
    """

    guide: str = "auto_delta"

    def __post_init__(self) -> None:
        object.__setattr__(self, "guide", "auto_delta")

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "map"
