"""Random graphs of the operations that networks for images are made of."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RandomNet(nn.Module):
    """A random graph over images: every step takes one or two of the last values."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.choice = random.Random(seed)
        self.layers = nn.ModuleList()
        self.steps: list[tuple[str, int, list[int]]] = []
        widths = [3]
        while len(self.steps) < self.choice.randint(4, 10):
            source = self.choice.randrange(max(0, len(widths) - 3), len(widths))
            kind = self.choice.choice(list(_STEPS))
            made = _STEPS[kind][0](self, widths[source], widths)
            if made is not None:
                width, others = made
                self.steps.append((kind, source, others))
                widths.append(width)
        self.flat = self.choice.random() < 0.3
        self.out = nn.Linear(widths[-1] * (25 if self.flat else 1), 3)

    def add(self, *layers: nn.Module) -> list[int]:
        start = len(self.layers)
        self.layers.extend(layers)
        return list(range(start, len(self.layers)))

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for kind, source, others in self.steps:
            values.append(_STEPS[kind][1](self, values[source], values, others))
        x = values[-1]
        return self.out(x.flatten(1) if self.flat else x.amax((2, 3)))


_Made = tuple[int, list[int]] | None
_Make = Callable[[RandomNet, int, list[int]], _Made]
_Run = Callable[[RandomNet, Tensor, list[Tensor], list[int]], Tensor]


def _layer(make: Callable[[RandomNet, int], tuple[int, nn.Module]]) -> tuple[_Make, _Run]:
    def made(net: RandomNet, width: int, _widths: list[int]) -> _Made:
        after, layer = make(net, width)
        return after, net.add(layer)

    return made, lambda net, x, _values, own: net.layers[own[0]](x)


def _convolution(net: RandomNet, width: int) -> tuple[int, nn.Module]:
    after, size = net.choice.choice([4, 6, 8]), net.choice.choice([1, 3])
    return after, nn.Conv2d(width, after, size, padding=size // 2, bias=net.choice.random() < 0.5)


def _activation(net: RandomNet, width: int) -> tuple[int, nn.Module]:
    kinds = [nn.ReLU(inplace=True), nn.Tanh(), nn.SiLU(), nn.PReLU(width)]
    return width, net.choice.choice(kinds)


def _pair(run: Callable[[Tensor, Tensor], Tensor]) -> tuple[_Make, _Run]:
    def made(net: RandomNet, width: int, widths: list[int]) -> _Made:
        same = [other for other, w in enumerate(widths) if w == width]
        return width, [net.choice.choice(same)]

    return made, lambda _net, x, values, own: run(x, values[own[0]])


def _excited(net: RandomNet, x: Tensor, _values: list[Tensor], own: list[int]) -> Tensor:
    squeezed = torch.relu(net.layers[own[0]](x.mean((2, 3))))
    return x * torch.sigmoid(net.layers[own[1]](squeezed))[:, :, None, None]


def _channels_last(net: RandomNet, x: Tensor, _values: list[Tensor], own: list[int]) -> Tensor:
    up, down = (net.layers[i] for i in own)
    return x + down(F.gelu(up(x.movedim(1, -1)))).movedim(-1, 1)


def _tokens(net: RandomNet, x: Tensor, _values: list[Tensor], own: list[int]) -> Tensor:
    first, second = (net.layers[i] for i in own)
    x = second(torch.tanh(first(x.flatten(2).transpose(1, 2))))
    return x.transpose(1, 2).unflatten(2, (5, 5))


def _gated(_net: RandomNet, x: Tensor, _values: list[Tensor], _own: list[int]) -> Tensor:
    values, gates = x.chunk(2, 1)
    return values * torch.sigmoid(gates)


def _twice(net: RandomNet, x: Tensor, _values: list[Tensor], own: list[int]) -> Tensor:
    return net.layers[own[0]](torch.tanh(net.layers[own[0]](x)))


def _normed(net: RandomNet, x: Tensor, _values: list[Tensor], own: list[int]) -> Tensor:
    return net.layers[own[0]](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _bottleneck(net: RandomNet, width: int, _widths: list[int]) -> _Made:
    return width, net.add(nn.Linear(width, 5), nn.Linear(5, width))


def _joined(net: RandomNet, width: int, widths: list[int]) -> _Made:
    other = net.choice.randrange(len(widths))
    return width + widths[other], [other]


_STEPS: dict[str, tuple[_Make, _Run]] = {
    "convolution": _layer(_convolution),
    "depthwise": _layer(lambda net, w: (w, nn.Conv2d(w, w, 3, padding=1, groups=w))),
    "batch norm": _layer(lambda net, w: (w, nn.BatchNorm2d(w))),
    "activation": _layer(_activation),
    "pool": _layer(lambda net, w: (w, nn.AvgPool2d(3, 1, 1))),
    "groups": (
        lambda net, w, _: None if w % 2 else (2 * w, net.add(nn.Conv2d(w, 2 * w, 1, groups=2))),
        lambda net, x, _values, own: net.layers[own[0]](x),
    ),
    "sum": _pair(torch.add),
    "product": _pair(torch.mul),
    "concatenation": (_joined, lambda net, x, values, own: torch.cat([x, values[own[0]]], 1)),
    "squeeze and excite": (_bottleneck, _excited),
    "MLP of channels": (_bottleneck, _channels_last),
    "tokens": (lambda net, w, _: (5, net.add(nn.Linear(w, 7), nn.Linear(7, 5))), _tokens),
    "gate": (lambda net, w, _: None if w % 2 else (w // 2, []), _gated),
    "shared": (lambda net, w, _: (w, net.add(nn.Conv2d(w, w, 1))), _twice),
    "layer norm": (lambda net, w, _: (w, net.add(nn.LayerNorm(w))), _normed),
    "centre": (lambda net, w, _: (w, []), lambda n, x, v, o: x - x.mean((2, 3), keepdim=True)),
}  # fmt: skip
