"""Linear layers that spare the zeros of their weight, for inference.

Each takes over an `nn.Linear`, together with the `InputSelect` in front of it if there is one, and
computes (W X^T)^T. With the weight on the left, torch's sparse kernels are several times faster
than in X W^T, the order of `nn.functional.linear`. Outputs lie in memory unit by unit, not input by
input, and inputs that do so too are the fastest: one such layer after another, with activations
between them, transposes nothing at all.

What the layers hold are dense buffers, no parameters, so that they are copied, saved and moved to
other devices like every module. None of them is called `weight` or `bias`: a network that reads
those of its layers must fail with these, and does not compute something else.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_turbovbi.compression.layers import InputSelect


class UnitsFirst(nn.Module):
    """A linear layer that is applied to features laid out one after another.

    Attributes:
        in_features: Number of features that it is given.
        out_features: Number of its units.
    """

    in_features: int
    out_features: int

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer.

        Args:
            x: Shape (..., in_features).

        Returns:
            Shape (..., out_features).
        """
        y = self.bound()(x.reshape(-1, self.in_features).T)
        return y.T.reshape(*x.shape[:-1], self.out_features)

    def bound(self) -> Callable[[Tensor], Tensor]:
        """The layer on its present tensors, without the cost of looking them up at every call.

        Returns:
            What takes features, shape (in_features, points), to units in new memory, shape
            (out_features, points).
        """
        raise NotImplementedError


class TransposedLinear(UnitsFirst):
    """A linear layer with a dense weight, without the rows and columns that are zero.

    Cutting must leave those where other layers read the same features, or add to the same units.

    Args:
        linear: The layer to take over; it is not touched.
        select: The layer in front of it; it is not touched.

    Attributes:
        inputs: The features that have a weight, int64; None if these are all, in their order.
        units: The units that have a weight, int64; None if these are all.
        values: The weight, shape (units, inputs).
        offset: The bias of these units, shape (units, 1); None if the layer has none.
        constant: Outputs of a layer without weights, shape (out_features, 1); None if all units
            have one.
        stored: Share of the weights that the layer holds.
    """

    inputs: Tensor | None
    units: Tensor | None
    values: Tensor
    offset: Tensor | None
    constant: Tensor | None

    def __init__(self, linear: nn.Linear, select: InputSelect | None = None) -> None:
        super().__init__()
        self.in_features = linear.in_features if select is None else select.size
        self.out_features = linear.out_features
        weight, bias = _tensors_of(linear)
        units, columns = _live(weight, 1), _live(weight, 0)
        every = len(units) == len(weight)
        constant = weight.new_zeros(len(weight), 1) if bias is None else bias.clone()
        self.register_buffer("inputs", _features(columns, select, self.in_features))
        self.register_buffer("units", None if every else units)
        self.register_buffer("values", weight[units][:, columns])
        self.register_buffer("offset", None if bias is None else bias[units])
        self.register_buffer("constant", None if every else constant)
        self.stored = self.values.numel() / weight.numel()

    def bound(self) -> Callable[[Tensor], Tensor]:
        """See `UnitsFirst.bound`."""
        return self._bound(self.inputs)

    def bound_to_selected(self) -> Callable[[Tensor], Tensor]:
        """As `bound`, for features that are those of `inputs` alone, shape (inputs, points)."""
        return self._bound(None)

    def _bound(self, inputs: Tensor | None) -> Callable[[Tensor], Tensor]:
        values, offset = self.values, self.offset
        if self.units is not None and self.constant is not None:
            kept = (inputs, values, offset)
            return partial(_dense_among_constants, self.units, self.constant, kept)
        if inputs is None and offset is not None:
            return partial(torch.addmm, offset, values)
        return partial(_dense, inputs, values, offset)

    def extra_repr(self) -> str:
        """Sizes, and how much of the weight is left."""
        return _sizes(self) + f", stored={self.stored:.1%}"


class SparseLinear(UnitsFirst):
    """A linear layer whose weight is stored as single weights (CSR) or square blocks (BSR).

    Blocks pass no gradients back to the inputs on CPUs.

    Args:
        linear: The layer to take over; it is not touched.
        block: Edge of the blocks; 1 stands for single weights.
        select: The layer in front of it; it is not touched.

    Attributes:
        inputs: The features that have a weight, int64, the last one again where blocks need more
            columns; None if these are all, in their order.
        crow_indices: Where each row (of blocks) starts, int32.
        col_indices: The column (of blocks) of each stored weight or block, int32.
        values: Shape (stored,), or (stored, block, block).
        offset: The bias, shape (rows, 1): of the units, and more where blocks need them; None if
            the layer has none.
        stored: Number of stored values over number of weights; more than 1 if the zeros in blocks
            outweigh what is spared.
    """

    inputs: Tensor | None
    crow_indices: Tensor
    col_indices: Tensor
    values: Tensor
    offset: Tensor | None

    def __init__(
        self, linear: nn.Linear, block: int = 1, select: InputSelect | None = None
    ) -> None:
        super().__init__()
        self.in_features = linear.in_features if select is None else select.size
        self.out_features, self.block = linear.out_features, block
        weight, bias = _tensors_of(linear)
        columns = _live(weight, 0)
        below, right = -len(weight) % block, -len(columns) % block
        padded = F.pad(weight[:, columns], (0, right, 0, below))
        with _without_remarks():
            sparse = padded.to_sparse_csr() if block == 1 else padded.to_sparse_bsr((block, block))
        # The features of added columns do not matter: their weights are zero.
        columns = torch.cat([columns, columns[-1:].expand(right)])
        self.register_buffer("inputs", _features(columns, select, self.in_features))
        # MKL computes with indices of 32 bits: wider ones would be converted at every call.
        self.register_buffer("crow_indices", sparse.crow_indices().int())
        self.register_buffer("col_indices", sparse.col_indices().int())
        self.register_buffer("values", sparse.values().clone())
        self.register_buffer("offset", None if bias is None else F.pad(bias, (0, 0, 0, below)))
        self.stored = self.values.numel() / weight.numel()
        self._size = padded.shape
        self._matrix: Tensor | None = None
        self._matrix_values: Tensor | None = None

    @property
    def matrix(self) -> Tensor:
        """The weight as a sparse tensor, shape (rows, inputs), over the memory of the buffers."""
        # Other values are there after a move to another device or type.
        if self._matrix is None or self._matrix_values is not self.values:
            self._matrix, self._matrix_values = self._built(), self.values
        return self._matrix

    def bound(self) -> Callable[[Tensor], Tensor]:
        """See `UnitsFirst.bound`."""
        return partial(_sparse, self.inputs, self.matrix, self.offset, self.out_features)

    def extra_repr(self) -> str:
        """Sizes, format, and how much is stored."""
        layout = "csr" if self.block == 1 else f"bsr {self.block}x{self.block}"
        return _sizes(self) + f", {layout}, stored={self.stored:.1%}"

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the sparse tensor: torch cannot copy one deeply."""
        return {**self.__dict__, "_matrix": None, "_matrix_values": None}

    def _built(self) -> Tensor:
        # Outside of inference mode: the tensor outlives the call.
        with torch.inference_mode(False), _without_remarks():
            return torch.sparse_compressed_tensor(
                self.crow_indices,
                self.col_indices,
                self.values,
                self._size,
                layout=torch.sparse_csr if self.block == 1 else torch.sparse_bsr,
                check_invariants=True,
            )


def _tensors_of(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight, shape (units, features), and bias, shape (units, 1)."""
    bias = linear.bias
    return linear.weight.detach(), None if bias is None else bias.detach()[:, None]


def _live(weight: Tensor, dim: int) -> Tensor:
    """The columns (dim 0) or rows (dim 1) that are not all zero; the first one if all are."""
    live = (weight != 0).any(dim)
    live[:1] |= ~live.any()
    return live.nonzero().flatten()


def _features(columns: Tensor, select: InputSelect | None, size: int) -> Tensor | None:
    """Which of all features some columns of a weight are; None if these are all, in their order."""
    features = columns if select is None else select.indices[columns]
    every = torch.arange(size, device=features.device)
    return None if torch.equal(features, every) else features


def _dense(
    inputs: Tensor | None, values: Tensor, offset: Tensor | None, features: Tensor
) -> Tensor:
    if inputs is not None and features.is_contiguous():
        features = features.index_select(0, inputs)
    elif inputs is not None:  # along the order in memory, which a dense product can keep
        features = features.T.index_select(1, inputs).T
    return _product(values, features, offset)


def _dense_among_constants(
    units: Tensor,
    constant: Tensor,
    kept: tuple[Tensor | None, Tensor, Tensor | None],
    features: Tensor,
) -> Tensor:
    y = _dense(*kept, features)
    return constant.expand(-1, y.shape[1]).index_copy(0, units, y)


def _sparse(
    inputs: Tensor | None, matrix: Tensor, offset: Tensor | None, units: int, features: Tensor
) -> Tensor:
    # In this order in memory: otherwise the kernel copies, more slowly.
    features = features.contiguous() if inputs is None else features.index_select(0, inputs)
    return _product(matrix, features, offset)[:units]


def _product(matrix: Tensor, features: Tensor, bias: Tensor | None) -> Tensor:
    return matrix @ features if bias is None else torch.addmm(bias, matrix, features)


def _sizes(layer: TransposedLinear | SparseLinear) -> str:
    """What `nn.Linear` says of itself."""
    return (
        f"in_features={layer.in_features}, out_features={layer.out_features}, "
        f"bias={layer.offset is not None}"
    )


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Without what torch says once in a process when it makes a sparse tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Sparse (CSR|BSR) tensor support is in beta state")
        # Said by some versions even where the checks are asked for.
        warnings.filterwarnings("ignore", "Sparse invariant checks are implicitly disabled")
        yield
