"""Maximum a posteriori: the point that stock training with a penalty finds."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyro_turbovbi.engines.svi import SVI


@dataclass(frozen=True)
class MAP(SVI):
    """MAP weights: stock SVI with Pyro's `AutoDelta`, so that any continuous prior works.

    Args: see `SVI`; the guide is fixed.
    """

    guide: str = field(default="auto_delta", init=False)

    @property
    def name(self) -> str:
        """Short name for tables."""
        return "map"
