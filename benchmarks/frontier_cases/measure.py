"""What is measured of a trained network: errors, size, regularity, bytes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch import nn

import pyro_turbovbi as ptv
from benchmarks.common import error_percent
from benchmarks.frontier_cases.training import Trained
from pyro_turbovbi.compression import Compressed, compress, masked, reorder
from pyro_turbovbi.data import TensorPair
from pyro_turbovbi.errors import VerificationError

#: Training images on which the smaller network is verified, and those on which it is quantised.
VERIFIED, QUANTISED_ON = 1000, 5000
#: By how much the mean cross entropy on the latter may grow by rounding the weights, in nats.
TOLERANCE = 0.002


def measured(trained: Trained, train: TensorPair, held_out: TensorPair) -> dict[str, Any]:
    """All figures of a network.

    The hidden units of every method's network are re-ordered before it is cut and measured; what
    regularity there is without that stands beside it.

    Args:
        trained: What the method gave.
        train: Its training data.
        held_out: What errors are measured on.

    Returns:
        Figures by name, ready for JSON.
    """
    small = cut(trained, train)
    unordered = compress(trained.net, trained.masks, train.x[:VERIFIED], measure_latency=False)
    return {
        "error_percent": error_percent(small.module, held_out),
        "posterior_mean_error_percent": error_percent(trained.net, held_out),
        "masked_error_percent": error_percent(masked(trained.net, trained.masks), held_out),
        **sizes(small),
        **regularity_of(small),
        "not_reordered": regularity_of(unordered),
        **file_of(small, trained.net, train, held_out),
        **trained.notes,
    }


def cut(trained: Trained, train: TensorPair) -> Compressed:
    """The smaller network, its hidden units re-ordered.

    Args:
        trained: What the method gave.
        train: Its training data.

    Returns:
        The network and its report, without latencies.
    """
    ordered = reorder(trained.net, trained.masks)
    scales = ordered.arrange(trained.scales)
    example = train.x[:VERIFIED]
    return compress(ordered.net, ordered.masks, example, scales=scales, measure_latency=False)


def sizes(small: Compressed) -> dict[str, Any]:
    """How much of the network is left."""
    report = small.report
    return {
        "weights_left_percent": 100.0 * report.weights_left,
        "weights_left": report.kept,
        "structure": str(report.structure),
        "parameters": report.parameters,
        "flops": report.flops,
        "flops_percent": 100.0 * report.flops / report.flops_dense,
        "layers": {name: part.to_dict() for name, part in report.regularity.items()},
    }


def regularity_of(small: Compressed) -> dict[str, float]:
    """How the weights that are left lie together."""
    total = small.report.regularity_total
    return {
        "clusters": total.clusters,
        "mean_cluster_length": total.mean_cluster_length,
        "index_bits_run_length": total.index_bits_run_length,
        "block_fill_percent": 100.0 * total.block_fill,
    }


def file_of(
    small: Compressed, dense: nn.Module, train: TensorPair, held_out: TensorPair
) -> dict[str, Any]:
    """Size of the compact file, and the error of the network that is read back from it.

    Args:
        small: The smaller network.
        dense: What it was cut from: a file holds only chains of layers without their class.
        train: Training data.
        held_out: What errors are measured on.
    """
    points = (train.x[:QUANTISED_ON], train.y[:QUANTISED_ON])
    try:
        rounded = small.quantise(points, tolerance=TOLERANCE)
    except VerificationError:  # nothing is left that could be rounded
        return {"bytes": None, "quantised_error_percent": None}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.ptv"
        size = rounded.save(path)
        module = ptv.load(path, None if small.surgery is None else dense)
    assert isinstance(module, nn.Module)
    return {"bytes": size, "quantised_error_percent": error_percent(module, held_out)}
