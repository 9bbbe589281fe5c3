"""Small networks that are no chains, as their users write them, and masks with whole dead units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.compression.nets import mlp, randomise


class LeNet5(nn.Module):
    """Convolutions, pools, and a flattening in front of linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 8, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(8 * 9, 20), nn.Linear(20, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(x.size(0), -1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class ResidualMLP(nn.Module):
    """A skip connection around two linear layers, and layer normalisation."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 10), nn.Linear(10, 3)
        self.norm: nn.Module = nn.LayerNorm(10) if norm else nn.Identity()
        self.up, self.down = nn.Linear(10, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x)


def vgg(width: int = 6) -> nn.Sequential:
    """VGG-16 with its 13 convolutions, narrow."""
    layers: list[nn.Module] = []
    before = 3
    for width_of_stage, depth in ((1, 2), (2, 2), (2, 3), (3, 3), (3, 3)):
        for _ in range(depth):
            after = width * width_of_stage
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after)]
            layers.append(nn.ReLU(inplace=True))
            before = after
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    head = [nn.Flatten(), nn.Linear(before, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 10)]
    return nn.Sequential(*layers, *head)


class BasicBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        after = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + identity)


class ResNet(nn.Module):
    """ResNet-20 (BasicBlock) or ResNet-50 (Bottleneck) with few and narrow blocks."""

    def __init__(self, bottleneck: bool = False, depth: int = 2, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        blocks: list[nn.Module] = []
        before = width
        for stage in range(3):
            for i in range(depth):
                own, stride = width * (stage + 1), 2 if stage and not i else 1
                block = Bottleneck if bottleneck else BasicBlock
                blocks.append(block(before, own, stride))
                before = own * (4 if bottleneck else 1)
        self.layers = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.layers(self.stem(x))), 1))


class InvertedResidual(nn.Module):
    def __init__(self, before: int, after: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = before * expand
        self.skip = stride == 1 and before == after
        self.conv = nn.Sequential(
            nn.Conv2d(before, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.skip else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU6(inplace=True),
            InvertedResidual(6, 8, 1, 2),
            InvertedResidual(8, 8, 1, 3),
            InvertedResidual(8, 10, 2, 3),
            nn.Conv2d(10, 24, 1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU6(inplace=True),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(24, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class Grouped(nn.Module):
    """A convolution in groups (ResNeXt) between two plain ones, and one with a multiplier."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 12, 1), nn.Conv2d(24, 8, 1)
        self.grouped = nn.Conv2d(12, 24, 3, padding=1, groups=6)
        self.multiplied = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.grouped(F.relu(self.before(x))))
        x = F.relu(self.multiplied(F.relu(self.after(x))))
        return self.head(x.amax((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, 8, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, growth, 3, padding=1, bias=False)

    def forward(self, parts: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(parts, 1))))
        return self.conv2(F.relu(self.norm2(x)))


class DenseNet(nn.Module):
    def __init__(self, growth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.block1 = nn.ModuleList(DenseLayer(6 + i * growth, growth) for i in range(3))
        self.norm, self.transition = nn.BatchNorm2d(18), nn.Conv2d(18, 9, 1, bias=False)
        self.block2 = nn.ModuleList(DenseLayer(9 + i * growth, growth) for i in range(2))
        self.norm_last, self.fc = nn.BatchNorm2d(17), nn.Linear(17, 10)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.stem(x)]
        for layer in self.block1:
            parts.append(layer(parts))
        x = F.avg_pool2d(self.transition(F.relu(self.norm(torch.cat(parts, 1)))), 2)
        parts = [x]
        for layer in self.block2:
            parts.append(layer(parts))
        x = F.relu(self.norm_last(torch.cat(parts, 1)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Attention(nn.Module):
    """Self-attention with one matrix for queries, keys and values, sizes read from attributes."""

    def __init__(self, dim: int, heads: int, head_dim: int, causal: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.causal = heads, head_dim, causal
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, -1))


class ByHandAttention(nn.Module):
    """Self-attention with three matrices and an explicit softmax."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, dim // heads
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], self.heads, self.size).transpose(1, 2)

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        weights = torch.softmax(q @ k.transpose(-2, -1) / self.size**0.5, -1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class TorchAttention(nn.Module):
    """torch's own multi-head attention."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mha(x, x, x, need_weights=False)[0]


class Block(nn.Module):
    def __init__(self, dim: int, attention: nn.Module) -> None:
        super().__init__()
        self.ln1, self.attn, self.ln2 = nn.LayerNorm(dim), attention, nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class ViT(nn.Module):
    """Patches by a convolution, a class token, position embeddings, encoder blocks."""

    def __init__(self, kind: str = "fused", dim: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.zeros(1, 5, dim))
        made = {
            "fused": lambda: Attention(dim, heads, dim // heads),
            "by hand": lambda: ByHandAttention(dim, heads),
            "torch": lambda: TorchAttention(dim, heads),
        }[kind]
        self.blocks = nn.Sequential(*(Block(dim, made()) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class GPTAttention(nn.Module):
    """Causal attention in nanoGPT's style: sizes computed from the width of the stream."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.n_head, self.n_embd = heads, dim
        self.register_buffer("bias", torch.tril(torch.ones(16, 16))[None, None])

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.size()
        q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
        k = k.view(batch, tokens, self.n_head, dim // self.n_head).transpose(1, 2)
        q = q.view(batch, tokens, self.n_head, dim // self.n_head).transpose(1, 2)
        v = v.view(batch, tokens, self.n_head, dim // self.n_head).transpose(1, 2)
        weights = (q @ k.transpose(-2, -1)) * (1.0 / k.size(-1) ** 0.5)
        weights = weights.masked_fill(self.bias[:, :, :tokens, :tokens] == 0, float("-inf"))
        y = F.softmax(weights, dim=-1) @ v
        return self.c_proj(y.transpose(1, 2).contiguous().view(batch, tokens, dim))


class GPT(nn.Module):
    """Token and position embeddings, blocks, and an output tied to the token embedding."""

    def __init__(self, style: str = "sized", dim: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(20, dim), nn.Embedding(16, dim)

        def attention() -> nn.Module:
            if style == "sized":
                return Attention(dim, heads, dim // heads, causal=True)
            return GPTAttention(dim, heads)

        self.blocks = nn.ModuleList(Block(dim, attention()) for _ in range(2))
        self.ln_f, self.lm_head = nn.LayerNorm(dim), nn.Linear(dim, 20, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.wte(tokens) + self.wpe(places)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class GatedMLP(nn.Module):
    """Gates and values from one matrix, and the same layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Linear(5, 8), nn.Linear(8, 8)
        self.both, self.out = nn.Linear(8, 24), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.shared(torch.relu(self.shared(self.stem(x)))))
        values, gates = self.both(x).chunk(2, -1)
        return self.out(values * torch.sigmoid(gates))


def images(size: int = 8, channels: int = 3, count: int = 6) -> Tensor:
    """Random images."""
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def tokens(count: int = 6, length: int = 7) -> Tensor:
    """Random token numbers."""
    return torch.randint(0, 20, (count, length), generator=torch.Generator().manual_seed(1))


def masks_with_dead_units(
    net: nn.Module, seed: int, density: float = 0.5, dead: float = 0.4
) -> dict[str, Tensor]:
    """Random supports of the matrices; every row and column is dead with some probability."""
    generator = torch.Generator().manual_seed(seed)

    def alive(size: int) -> Tensor:
        keep = torch.rand(size, generator=generator) >= dead
        keep[int(torch.randint(size, (), generator=generator))] = True
        return keep

    masks = {}
    for name, parameter in net.named_parameters():
        if parameter.ndim < 2 or "norm" in name or name in ("token", "position"):
            continue
        mask = torch.rand(parameter.shape, generator=generator) < density
        tail = (1,) * (parameter.ndim - 2)
        mask &= alive(parameter.shape[0]).reshape(-1, 1, *tail)
        if parameter.shape[1] > 1:
            mask &= alive(parameter.shape[1]).reshape(1, -1, *tail)
        masks[name] = mask
    return masks


class Apply(nn.Module):
    """A forward method given as a function, over layers and parameters by name."""

    def __init__(self, function: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        self.parts = parts
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        # The registered ones, not those of the constructor: a copy has parts of its own.
        return self.function(x, **{name: getattr(self, name) for name in self.parts})


@dataclass(frozen=True)
class Case:
    """A network to cut, the inputs it takes, and whether its random weights are made anew."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    random: bool = True

    def __str__(self) -> str:
        return self.name

    def net(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = self.make()
        return randomise(net, seed) if self.random else net


def features(*shape: int) -> Tensor:
    """Six random inputs."""
    return torch.randn(6, *shape, generator=torch.Generator().manual_seed(1))


CASES = [
    Case("MLP", lambda: mlp(6, 10, 8, 3), lambda: features(6)),
    Case("LeNet-5", LeNet5, lambda: images(20, 1)),
    Case("VGG-16", vgg, lambda: images(16)),
    Case("residual MLP", ResidualMLP, lambda: features(6)),
    Case("residual MLP with layer norm", lambda: ResidualMLP(True), lambda: features(6)),
    Case("ResNet-20", ResNet, images),
    Case("ResNet-50", lambda: ResNet(True, 1, 4), images),
    Case("MobileNetV2", MobileNetV2, lambda: images(16)),
    Case("grouped convolutions", Grouped, lambda: images(6)),
    Case("DenseNet", DenseNet, images),
    Case("ViT", ViT, images),
    Case("ViT, attention by hand", lambda: ViT("by hand"), images),
    Case("ViT, torch's attention", lambda: ViT("torch"), images),
    Case("GPT", GPT, tokens, random=False),
    Case("GPT, nanoGPT's attention", lambda: GPT("nano"), tokens, random=False),
    Case("gated MLP, shared layer", GatedMLP, lambda: features(5)),
]
