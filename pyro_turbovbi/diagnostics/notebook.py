"""Tables by which fits and compressed networks show themselves in notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro_turbovbi.diagnostics.table import Table

if TYPE_CHECKING:
    from pyro_turbovbi.compression import Compressed
    from pyro_turbovbi.result import Fit


def fit_table(fit: Fit) -> Table:
    """Every weight site of a fit: shape, what is left, prior; below, how the fit came about.

    Args:
        fit: The fit.
    """
    supported, learned = fit.posterior.support_probs() or {}, fit.learned
    rows = []
    for name, site in fit.bnn.sites.items():
        left = f"{float((supported[name] > 0.5).double().mean()):.2%}" if name in supported else ""
        note = " (learned)" if name in learned else ""
        rows.append((name, "x".join(map(str, site.shape)), left, f"{site.prior}{note}"))
    elbo = "" if fit.elbo is None else f", ELBO {fit.elbo:,.1f} nats ({fit.elbo_kind})"
    how = fit.training
    line = (
        f"Fit by {fit.engine_name}: {how.epochs} epochs of {how.num_data:,} points in "
        f"{fit.seconds:.1f} s{elbo}"
    )
    return Table(("weight", "shape", "left", "prior"), rows, [line])


def compressed_table(compressed: Compressed) -> Table:
    """The network before and after the cut, then what is left of every support.

    Args:
        compressed: The network.
    """
    report = compressed.report
    rows = [*report.rows(), *(_support(compressed, name) for name in compressed.masks)]
    note = f"largest relative deviation from the masked net {report.max_error:.1e}"
    return Table(("", "original", "cut"), rows, [note])


def _support(compressed: Compressed, name: str) -> tuple[str, str, str]:
    """Shapes and kept weights of one support."""
    mask = compressed.masks[name]
    before = compressed.masks_before.get(name)
    shape = "x".join(map(str, mask.shape))
    original = "" if before is None else f"{'x'.join(map(str, before.shape))}, {before.numel():,}"
    kept = int(mask.sum())
    return name, original, f"{shape}, {kept:,} left"


__all__ = ["compressed_table", "fit_table"]
