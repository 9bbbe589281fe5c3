"""Time of a batch through a network and through the dense one, in several runtimes.

What is taken is the time that the computing thread has a processor. On an idle machine this is the
latency; on a busy one the latency of whatever takes longer than a time slice would be that of its
neighbours, and every speed-up over it too large.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.take_home_cases import int8
from pyro_turbovbi.compression import Compressed, accelerate
from pyro_turbovbi.compression.export import write_onnx

#: Sizes of the batches.
BATCHES = (1, 256)
#: Turns end after so many rounds, or after so many seconds once the least number is done.
MOST_ROUNDS, LEAST_ROUNDS, SECONDS = 200, 7, 0.75

TORCH, ACCELERATED, ONNXRUNTIME = "torch", "torch, accelerated", "onnxruntime"
DENSE = "dense, "


class OnnxNetwork(nn.Module):
    """A network in ONNX Runtime, on one thread, called like the network itself.

    Args:
        net: A network in evaluation mode.
        example: An input batch.
    """

    def __init__(self, net: nn.Module, example: Tensor) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        with tempfile.TemporaryDirectory() as folder:
            path = write_onnx(net, example, Path(folder) / "net.onnx")
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
        self._input = self._session.get_inputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        """The outputs."""
        return torch.from_numpy(self._session.run(None, {self._input: x.numpy()})[0])


def in_runtimes(net: nn.Module, example: Tensor) -> dict[str, nn.Module]:
    """A network in every runtime.

    Args:
        net: A network in evaluation mode.
        example: An input batch.
    """
    return {TORCH: net, ONNXRUNTIME: OnnxNetwork(net, example)}


def speed_of(small: Compressed, dense: Mapping[str, nn.Module], inputs: Tensor) -> dict[str, Any]:
    """Medians of the times of a batch, by size of the batch and by what computes it.

    The networks take turns. Those with integers have turns of their own, again against the dense
    network: a slow one would leave the others few.

    Args:
        small: The cut network.
        dense: One of the original architecture, with any weights, in every runtime.
        inputs: At least as many as there are in the largest batch.

    Returns:
        Seconds by batch size and name, in two groups; the kernels of the accelerated network by
            batch size and layer, and its layout of images.
    """
    cut = in_runtimes(small.module, inputs[: max(BATCHES)])
    original = {DENSE + runtime: net for runtime, net in dense.items()}
    integers = {k: int8.quantised(small.module, k) for k in int8.KINDS if int8.available()}
    seconds: dict[str, Any] = {}
    kernels: dict[str, dict[str, str]] = {}
    for size in BATCHES:
        fast = small.accelerate(batch_size=size)
        choice = fast.report.acceleration
        assert choice is not None
        kernels[str(size)] = {name: how.kernel for name, how in choice.layers.items()}
        kernels[str(size)]["images"] = choice.layout
        dense_fast = accelerate(dense[TORCH], inputs, batch_size=size).module
        usual = {**original, **cut, ACCELERATED: fast.module, DENSE + ACCELERATED: dense_fast}
        seconds[str(size)] = medians(usual, inputs[:size])
        if integers:
            others = {DENSE + TORCH: dense[TORCH], **integers}
            seconds[f"{size}, integers"] = medians(others, inputs[:size])
    return {"seconds": seconds, "kernels": kernels}


def medians(nets: Mapping[str, nn.Module], batch: Tensor) -> dict[str, float]:
    """Median seconds of a batch through networks that take turns.

    Each round has an order of its own: what a network finds in the caches, the one before has left.

    Args:
        nets: Networks in evaluation mode, by name.
        batch: Their inputs.
    """
    times: dict[str, list[float]] = {name: [] for name in nets}
    order, generator = list(nets), random.Random(0)
    with torch.inference_mode():
        for net in nets.values():
            net(batch)
        end = time.thread_time() + SECONDS
        for done in range(MOST_ROUNDS):
            if done >= LEAST_ROUNDS and time.thread_time() > end:
                break
            generator.shuffle(order)
            for name in order:
                start = time.thread_time()
                nets[name](batch)
                times[name].append(time.thread_time() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}
