"""Networks, masks and a slow second algorithm for the units that a pruned network needs."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


def randomise(net: nn.Module, seed: int) -> nn.Module:
    """Random weights, biases and batch statistics, so that nothing is zero by default."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.7)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_var.abs_().add_(0.3)
    return net


def random_masks(net: nn.Module, seed: int, *, biases: bool = False) -> dict[str, Tensor]:
    """Masks with random density, dead rows, dead columns and now and then a dead layer."""
    generator = torch.Generator().manual_seed(seed)

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    masks = {}
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1:
            if biases and name.endswith("bias"):
                masks[name] = chance(*parameter.shape) < 0.5
            continue
        mask = chance(*parameter.shape) < chance(1) ** 2
        rows, cols = parameter.shape[:2]
        tail = (1,) * (parameter.ndim - 2)
        mask &= (chance(rows) < 0.6).reshape(rows, 1, *tail)
        mask &= (chance(cols) < 0.7).reshape(1, cols, *tail)
        masks[name] = mask if chance(1) > 0.08 else torch.zeros_like(mask)
    return masks


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def needed_units(weights: list[Tensor]) -> list[Tensor]:
    """Units of an MLP that are neither constant nor unread, found by removing one at a time.

    Args:
        weights: Matrices of shape (out, in).

    Returns:
        For inputs and every layer but the last: which units are needed.
    """
    alive = [torch.ones(w.shape[1], dtype=torch.bool) for w in weights]
    alive.append(torch.ones(weights[-1].shape[0], dtype=torch.bool))
    changed = True
    while changed:
        changed = False
        for layer in range(len(weights)):
            for unit in alive[layer].nonzero().flatten().tolist():
                read = bool((weights[layer][alive[layer + 1], unit] != 0).any())
                fed = layer == 0 or bool((weights[layer - 1][unit, alive[layer - 1]] != 0).any())
                if not (read and fed):
                    alive[layer][unit] = False
                    changed = True
    return alive[:-1]
