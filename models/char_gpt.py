r"""A tiny GPT that spells two nursery rhymes, character by character.

Two blocks of four heads over 32 characters. The rhymes, traditional and in the public domain, are
in `rhymes.txt`; the last verse, of which all but two lines have been told before, is kept for the
test. A transformer wants narrow posteriors to start with:

    ptv fit models/char_gpt.py --data models/char_gpt.py:rhymes --epochs 100 \
        --set batch_size=16 --engine Turbo --set engine.init_scale=0.1
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyro_turbovbi as ptv
from pyro_turbovbi import data, likelihoods, priors, supports

TEXT = Path(__file__).with_name("rhymes.txt").read_text(encoding="utf-8")
#: All characters of the text, in the order of their numbers.
ALPHABET = "".join(sorted(set(TEXT)))
#: Characters of a window: as far as the net looks back.
LENGTH = 32


class CausalAttention(nn.Module):
    """Self-attention to earlier tokens, the nearer the better, by linear layers that lifting finds.

    A score loses `slope` for every token between, another slope in every head, so that no place in
    the window has a meaning of its own (Press, Smith, Lewis, "Train short, test long", ICLR 2022).

    Args:
        width: Length of a token.
        heads: Number of heads, which divides it.
    """

    bias: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.size = width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.register_buffer("bias", distance_bias(heads))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [batch, tokens, width], at most `LENGTH`, to tokens of the same shape."""
        projections = (self.query(x), self.key(x), self.value(x))
        q, k, v = (y.unflatten(-1, (-1, self.size)).transpose(1, 2) for y in projections)
        scores = q @ k.transpose(-2, -1) / self.size**0.5
        read = (scores + self.bias[:, : x.shape[1], : x.shape[1]]).softmax(-1) @ v
        return self.out(read.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def distance_bias(heads: int) -> Tensor:
    """What is added to the scores, [heads, LENGTH, LENGTH]: minus infinity for later tokens.

    Args:
        heads: Number of heads; their slopes are 2, 1, 1/2, ...
    """
    places = torch.arange(LENGTH)
    back = (places[:, None] - places).float()
    slopes = 2.0 ** (1 - torch.arange(heads, dtype=torch.float))
    return torch.where(back < 0, float("-inf"), -slopes[:, None, None] * back)


class Block(nn.Module):
    """Attention and a perceptron, each normalised before and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), CausalAttention(width, heads)
        self.norm, self.rise = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.fall = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [batch, tokens, width] to tokens of the same shape."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.fall(F.gelu(self.rise(self.norm(x))))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """Characters become tokens, blocks mix them, and each says which one comes next."""

    def __init__(self, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(ALPHABET), width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.next = nn.LayerNorm(width), nn.Linear(width, len(ALPHABET))

    def forward(self, x: Tensor) -> Tensor:
        """Characters [batch, tokens] to logits of the next ones, [batch, tokens, alphabet]."""
        return self.next(self.norm(self.blocks(self.characters(x))))  # type: ignore[no-any-return]


def build(width: int = 32, heads: int = 4, blocks: int = 2) -> ptv.BayesianNet:
    """Row chains over every weight matrix; windows [batch, 32] of characters, and the next ones.

    The embedding is trained as a point.

    Args:
        width: Length of a token, a multiple of `heads`.
        heads: Heads of the attention.
        blocks: Number of blocks.
    """
    prior = priors.ThreeLayer(support=supports.Chain(density=0.1, mean_run=5.0))
    net = GPT(width, heads, blocks)
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)


def encode(text: str) -> Tensor:
    """Numbers of characters, [characters].

    Args:
        text: Of characters of `ALPHABET`.
    """
    return torch.tensor([ALPHABET.index(character) for character in text])


def rhymes() -> data.Splits:
    """Windows [windows, 32] and what comes after each of their characters, of the same shape.

    Every character is predicted once: the likelihood of overlapping windows would count it several
    times. Test and validation windows are the last and the last but one of the second rhyme's
    verses, in windows that start every 16 characters, since there is nothing to count there.
    """
    *_, before, last = (at for at in range(len(TEXT)) if TEXT.startswith("On the ", at))
    parts = (_windows(0, before, LENGTH), _windows(before, last, 16), _windows(last, len(TEXT), 16))
    return data.Splits(*parts)


def _windows(start: int, end: int, stride: int) -> data.TensorPair:
    windows = encode(TEXT[start:end]).unfold(0, LENGTH + 1, stride)
    return data.TensorPair(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())


@torch.no_grad()
def continued(net: nn.Module, text: str, characters: int = 200) -> str:
    """A text and what a network takes for the most probable continuation.

    Args:
        net: A trained network, such as `fit.compress(...).module`.
        text: How it begins: characters of `ALPHABET`.
        characters: How many to add.
    """
    for _ in range(characters):
        logits = net(encode(text[-LENGTH:])[None])
        text += ALPHABET[int(logits[0, -1].argmax())]
    return text
