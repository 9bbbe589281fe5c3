"""What compression achieved, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from pyro_turbovbi.compression._support_tables import support_tables
from pyro_turbovbi.compression.acceleration import Acceleration
from pyro_turbovbi.compression.measure import Structure
from pyro_turbovbi.compression.regularity import Regularity


@dataclass(frozen=True)
class FineTuning:
    """What training the surviving weights further achieved.

    Losses are mean negative log-likelihoods of the validation data, in nats a point.

    Attributes:
        losses: Loss of every candidate in order: `"cut"` is the network before; `"batch
            statistics"` has those of the training data, if it has batch norms; `"noise"` has the
            likelihood's noise fitted anew, if that is learned; then `"epoch 1"`, `"epoch 2"`, ...
        best: The candidate that was taken: the first with the smallest loss.
        num_train: Number of points that were trained on.
        num_validation: Number of points that the candidates were judged on.
        held_out: Whether these were taken from the training data.
    """

    losses: Mapping[str, float]
    best: str
    num_train: int
    num_validation: int
    held_out: bool

    @property
    def loss_before(self) -> float:
        """Loss of the network before."""
        return self.losses["cut"]

    @property
    def loss_after(self) -> float:
        """Loss of the network that was taken; never larger than that before."""
        return self.losses[self.best]

    @property
    def kept(self) -> bool:
        """Whether anything was better than the network before."""
        return self.best != "cut"

    @property
    def epochs(self) -> int:
        """Passes over the training data that were tried."""
        return sum(name.startswith("epoch") for name in self.losses)

    def to_dict(self) -> dict[str, object]:
        """All fields and what follows from them, ready for JSON."""
        derived = ("loss_before", "loss_after", "kept", "epochs")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    def __str__(self) -> str:
        source = "held out of the training data" if self.held_out else "given"
        gain = (
            f"validation loss {self.loss_before:.4g} to {self.loss_after:.4g} nats by '{self.best}'"
            if self.kept
            else f"not kept, nothing is below the validation loss of {self.loss_before:.4g} nats"
        )
        return (
            f"fine-tuning: {gain}\n"
            f"  ({self.epochs} epochs tried, {self.num_validation:,} validation points {source})"
        )


@dataclass(frozen=True)
class CompressionReport:
    """What compression achieved.

    Attributes:
        total: Number of weights that the masks speak of.
        masked: How many of them the masks keep.
        kept: How many of them are left and not zero after dead units are cut: weights into a unit
            that nobody reads, or out of a unit that is constant, do not count.
        structure: Units per layer of the cut network, inputs first, without the outputs; prints as
            `353-95-92`. Of a network that is no chain: units of every coupling group (layers whose
            outputs are added are one) in the order of the computation, without inputs and outputs.
        structure_dense: The same of the original network.
        regularity: Regularity of the cut masks, by original parameter name.
        regularity_total: Their sum.
        parameters: Entries of all parameters of the cut network.
        parameters_dense: The same of the original network.
        flops: Operations of the convolutions and matrix products of the cut network for one input
            (two per multiply-accumulate).
        flops_dense: The same of the original network.
        bytes: Size of the saved file, see `coding`.
        bytes_dense: Size of the original parameters and buffers.
        latency: Median seconds of one batch through the cut network; None if not measured.
        latency_dense: The same of the original network.
        latency_batch: Number of inputs in that batch.
        max_error: Largest deviation from the masked network, relative to its largest output, on the
            checked inputs; of the cut, before any fine-tuning.
        coding: What file `bytes` speaks of: `"plain"` holds every value exactly, `"compact"` is
            that of a quantised network.
        fine_tuning: What training the surviving weights further achieved; None if that was not
            asked for.
        acceleration: Which kernels `Compressed.accelerate` chose, and how much faster the network
            is with them; None if that was not asked for. `latency` is that of ordinary layers.
    """

    total: int
    masked: int
    kept: int
    structure: Structure
    structure_dense: Structure
    regularity: dict[str, Regularity]
    regularity_total: Regularity
    parameters: int
    parameters_dense: int
    flops: int
    flops_dense: int
    bytes: int
    bytes_dense: int
    latency: float | None
    latency_dense: float | None
    latency_batch: int
    max_error: float
    coding: str = "plain"
    fine_tuning: FineTuning | None = None
    acceleration: Acceleration | None = None

    @property
    def mask_density(self) -> float:
        """Fraction of weights that the masks keep, before dead units are cut; 1 without masks."""
        return self.masked / self.total if self.total else 1.0

    @property
    def weights_left(self) -> float:
        """Fraction of the weights that are left after dead units are cut; 1 without masks."""
        return self.kept / self.total if self.total else 1.0

    def to_dict(self) -> dict[str, object]:
        """All numbers under their names, ready for JSON; the structures as text and as lists."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return plain | {
            "mask_density": self.mask_density,
            "weights_left": self.weights_left,
            "structure": str(self.structure),
            "structure_dense": str(self.structure_dense),
            "units": list(self.structure),
            "units_dense": list(self.structure_dense),
            "regularity": {name: part.to_dict() for name, part in self.regularity.items()},
            "regularity_total": self.regularity_total.to_dict(),
            "fine_tuning": None if self.fine_tuning is None else self.fine_tuning.to_dict(),
            "acceleration": None if self.acceleration is None else self.acceleration.to_dict(),
        }

    def __str__(self) -> str:
        """A table of the original against the cut network, and two of the supports, by layer."""
        lines = [f"{'':16}{'original':>22}{'cut':>22}"]
        lines += [f"{name:16}{dense:>22}{cut:>22}" for name, dense, cut in self.rows()]
        lines.append(f"masks keep {self.mask_density:.2%} of {self.total:,} weights")
        lines.append(f"largest relative deviation from the masked net {self.max_error:.1e}")
        if self.fine_tuning is not None:
            lines.append(str(self.fine_tuning))
        if self.acceleration is not None:
            lines.append(str(self.acceleration))
        return "\n".join([*lines, "", *support_tables(self.regularity, self.regularity_total)])

    def rows(self) -> list[tuple[str, str, str]]:
        """Name, original and cut network in words, one row a cost."""
        return [
            ("weights left", "100.00%", f"{self.weights_left:.2%}"),
            ("structure", str(self.structure_dense), str(self.structure)),
            ("parameters", f"{self.parameters_dense:,}", f"{self.parameters:,}"),
            ("FLOPs", f"{self.flops_dense:,}", f"{self.flops:,}"),
            (f"bytes, {self.coding}", f"{self.bytes_dense:,}", f"{self.bytes:,}"),
            (f"latency (B={self.latency_batch})", _time(self.latency_dense), _time(self.latency)),
        ]


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f} ms"
