"""What is published, for the tables' last rows and the hollow markers of the plots.

Each figure is quoted from the source named beside it; none was measured here. Several authors
report their best epoch, or one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VD = "Molchanov et al. 2017, repository"
RIGL = "RigL paper, table of MNIST results"
BC = "Bayesian compression, tutorial repository"


@dataclass(frozen=True)
class Anchor:
    """A published result.

    Attributes:
        method: As its authors call it.
        error: Test error in percent.
        left: Weights that are not zero, in percent of all; None if not said.
        source: Where the figures were read.
        structure: Units per layer, if said.
        size: Bytes, if said.
    """

    method: str
    error: float
    left: float | None
    source: str
    structure: str | None = None
    size: int | None = None

    def row(self) -> dict[str, Any]:
        """A row of a table."""
        figures = {
            "method": f"{self.method} (published)",
            "test_error_percent": self.error,
            "weights_left_percent": self.left,
            "structure": self.structure,
            "bytes": self.size,
            "source": self.source,
        }
        return {key: value for key, value in figures.items() if value is not None}


ANCHORS: dict[str, tuple[Anchor, ...]] = {
    "lenet_300_100": (
        Anchor("deep compression", 1.59, 8.3, VD),
        Anchor("dynamic network surgery", 1.99, 1.8, VD),
        Anchor("soft weight sharing", 1.94, 4.3, VD),
        Anchor("sparse VD", 1.92, 1.47, VD),
        Anchor("VIBNet", 1.6, 3.59, RIGL, "97-71-33"),
        Anchor("L0", 1.8, 10.0, RIGL, "266-88-33"),
        Anchor("RigL+", 1.69, None, RIGL, "375-62-51", 16_113),
    ),
    "lenet_5": (
        Anchor("sparse VD", 0.75, 0.36, VD),
        Anchor("SBP", 0.86, None, "Neklyudov et al. 2017, repository", "3-18-284-283"),
        Anchor("L0-sep", 1.0, None, "secondary", "9-18-65-25"),
        Anchor("BC-GNJ", 1.0, 0.93, BC, "8-13-88-13"),
        Anchor("BC-GHS", 1.0, 0.64, BC, "5-10-76-16"),
    ),
}
