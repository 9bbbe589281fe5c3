"""Textbook forward-backward in the log domain, for chains too long to enumerate."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def forward_backward(llr: Tensor, p01: float, p10: float) -> tuple[Tensor, Tensor]:
    """Posterior log-odds and log-evidence of one stationary chain `llr [length]`."""
    llr = llr.double()
    start = torch.tensor([p10, p01], dtype=torch.float64).log() - math.log(p01 + p10)
    table = torch.tensor([[1 - p01, p01], [p10, 1 - p10]], dtype=torch.float64).log()
    local = torch.stack([torch.zeros_like(llr), llr], 1)
    forward, backward = [start + local[0]], [torch.zeros(2, dtype=torch.float64)]
    for here in local[1:]:
        forward.append((forward[-1].unsqueeze(1) + table).logsumexp(0) + here)
    for after in local[1:].flip(0):
        backward.append((table + (after + backward[-1])).logsumexp(1))
    belief = torch.stack(forward) + torch.stack(backward[::-1])
    return belief[:, 1] - belief[:, 0], forward[-1].logsumexp(0)
