"""What a report is about, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from pyro_turbovbi.diagnostics.comparison import Comparison
from pyro_turbovbi.report.findings import Findings
from pyro_turbovbi.report.network import SmallNetwork
from pyro_turbovbi.result import Fit


@dataclass(frozen=True, eq=False)
class Subject:
    """A fit, and everything that is known beside it.

    Attributes:
        name: What the reader calls the fit.
        fit: The fit.
        small: The small network; None if there is none yet.
        found: What test data say; None without test data.
        comparison: The fit beside others; None without others, or without test data.
        stages: Supports during training, by name of the stage and of the site.
        recipe: The recipe as text; None if there is none.
        num_samples: Posterior draws that predictions average over.
        seed: Seed of the draws.
        others: Whether there are other fits, compared or not.
    """

    name: str
    fit: Fit
    small: SmallNetwork | None = None
    found: Findings | None = None
    comparison: Comparison | None = None
    stages: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    recipe: str | None = None
    num_samples: int = 32
    seed: int = 0
    others: bool = False

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Which weights of the uncut network survive, by site."""
        return self.fit.masks()

    @property
    def total(self) -> int:
        """Weights of the uncut network."""
        return sum(site.shape.numel() for site in self.fit.bnn.sites.values())

    @property
    def kept(self) -> int:
        """Weights that are left: of the small network, where there is one."""
        if self.small is not None and set(self.small.masks) == set(self.fit.bnn.sites):
            return self.small.kept
        return sum(int(mask.sum()) for mask in self.masks.values())


__all__ = ["Subject"]
