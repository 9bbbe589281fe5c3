r"""A small vision transformer for handwritten digits: 8x8 pixels are 16 patches of 2x2.

Two blocks of four heads, 17,000 weights under the prior. Compression records the forward pass and
takes away what nothing reads: hidden units of the MLPs, dims of queries and keys, of values, and
of the stream between the blocks. A transformer wants narrow posteriors to start with:

    ptv fit models/digits_vit.py --data digits --epochs 60 --set batch_size=64 \
        --engine Turbo --set engine.init_scale=0.1
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports

PIXELS, PATCH = 8, 2


class Attention(nn.Module):
    """Self-attention by plain linear layers, in which lifting finds four weight matrices.

    Args:
        width: Length of a token.
        heads: Number of heads, which divides it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.size = width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [batch, tokens, width] to tokens of the same shape."""
        projections = (self.query(x), self.key(x), self.value(x))
        q, k, v = (y.unflatten(-1, (-1, self.size)).transpose(1, 2) for y in projections)
        read = F.scaled_dot_product_attention(q, k, v)
        return self.out(read.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a perceptron, each normalised before and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm, self.rise = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.fall = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [batch, tokens, width] to tokens of the same shape."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.fall(F.gelu(self.rise(self.norm(x))))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Patches become tokens, blocks mix them, and their mean is classified."""

    def __init__(self, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, PATCH, PATCH)
        self.positions = nn.Parameter(0.1 * torch.randn((PIXELS // PATCH) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.classes = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels [batch, 64], row by row, to logits [batch, 10]."""
        tokens = self.patches(x.unflatten(1, (1, PIXELS, PIXELS))).flatten(2).transpose(1, 2)
        hidden = self.blocks(tokens + self.positions)
        return self.classes(self.norm(hidden).mean(1))  # type: ignore[no-any-return]


def build(width: int = 32, heads: int = 4, blocks: int = 2) -> ptv.BayesianNet:
    """Row chains over every weight matrix; inputs [batch, 64], labels 0 .. 9.

    Args:
        width: Length of a token, a multiple of `heads`.
        heads: Heads of the attention.
        blocks: Number of blocks.
    """
    prior = priors.ThreeLayer(support=supports.Chain(density=0.1, mean_run=5.0))
    net = VisionTransformer(width, heads, blocks)
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
