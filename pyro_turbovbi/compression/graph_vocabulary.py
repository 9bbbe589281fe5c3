"""The primitive operations of a recorded network, sorted by what they do to units.

What is in none of these sets is treated as an operation that mixes everything: nothing that it
touches is ever cut, and nothing behind it counts as constant unless all that it reads is.
"""

from __future__ import annotations

from typing import Any

import torch

_ATEN = torch.ops.aten


def _ops(*names: str) -> frozenset[Any]:
    """Operators by name; names that this version of torch does not know are left out."""
    return frozenset(getattr(_ATEN, name) for name in names if hasattr(_ATEN, name))


MOVES = _ops(
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze",
    "expand", "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "flip", "repeat",
    "clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "roll", "index", "index_select", "gather", "unfold",
    "diagonal", "movedim", "repeat_interleave",
)  # fmt: skip
"""Copies of entries to other places."""

POSITIONAL = _ops("select", "roll", "index", "index_select", "gather", "unfold", "diagonal")
"""Moves whose arguments name places: the dims that they touch cannot become shorter."""

SIZED = _ops("slice", "split", "split_with_sizes", "view", "_unsafe_view", "reshape")
"""Moves whose arguments may be sizes that the forward method computes or remembers."""

VIEWS = _ops("view", "_unsafe_view", "reshape")
"""Moves that only change the shape."""

COPIES = _ops("clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh")
"""Moves that change no place."""

CONTRACTIONS = _ops("linear", "mm", "bmm", "addmm", "baddbmm", "convolution")
"""Sums of products along a dim that disappears."""

PRODUCTS = _ops("mul")
"""Entrywise products."""

POOLS: dict[Any, int] = {
    getattr(_ATEN, name): dims
    for dims, names in {
        1: ("avg_pool1d", "adaptive_avg_pool1d", "max_pool1d_with_indices", "upsample_linear1d",
            "upsample_nearest1d"),
        2: ("avg_pool2d", "_adaptive_avg_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d",
            "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "reflection_pad2d",
            "replication_pad2d"),
        3: ("avg_pool3d", "_adaptive_avg_pool3d", "max_pool3d_with_indices", "adaptive_max_pool3d",
            "upsample_nearest3d", "upsample_trilinear3d"),
    }.items()
    for name in names
    if hasattr(_ATEN, name)
}  # fmt: skip
"""Operations on the positions of every channel by itself, with the number of position dims."""

BATCH_NORMS = _ops(
    "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "miopen_batch_norm",
)  # fmt: skip
"""Normalisation by stored statistics: (input, weight, bias, mean, variance, ...)."""

SUMS = _ops("sum")
"""Reductions that entries which are zero do not change."""

REDUCTIONS = _ops(
    "mean", "amax", "amin", "max", "min", "argmax", "argmin", "var", "std", "var_mean", "prod",
    "any", "all", "norm", "linalg_vector_norm", "logsumexp", "median", "mode",
) | SUMS  # fmt: skip
"""Reductions over the dims of the argument `dim` (all, if it is not given)."""

SOFTMAXES = _ops("_softmax", "_safe_softmax", "_log_softmax")
"""Operations that mix the entries along one dim and keep its size: (input, dim, ...)."""

ALONG_A_DIM = SOFTMAXES | _ops("cumsum", "cumprod", "sort", "logcumsumexp")
"""Operations that mix the entries along one dim: (input, dim, ...)."""

POINTWISE = _ops("_prelu_kernel", "masked_fill", "glu_jvp", "nan_to_num", "copy", "dropout")
"""Entrywise operations that torch does not tag as such."""


def is_pointwise(target: Any) -> bool:
    """Whether an operator treats every entry by itself, its inputs broadcast.

    Args:
        target: The operator with its overload.

    Returns:
        Whether it does.
    """
    return torch.Tag.pointwise in target.tags or target.overloadpacket in POINTWISE
