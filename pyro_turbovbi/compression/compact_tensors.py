"""Tensors of a compact file: what a manifest says of each, and how its entries are coded.

An entry is one of

    {}                            all entries, exact
    {"support": t}                the entries that are not zero, exact, and where they are
    {"support": t, "step": s}     the same on a grid: whole multiples of s[0] * 2^s[1]
    {"support": t, "columns": c}  marks of kept units, broken into rows of c cells
    ... "scale": b                standard deviations too, in quarters of octaves from b on
    ... "dtype": "float64"        where it is not the expected one

Supports, multiples and standard deviations are one stream of binary decisions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_turbovbi.compression.bit_coding import (
    AdaptiveModel,
    BitCoder,
    Bits,
    Decoder,
    Encoder,
    Indices,
)
from pyro_turbovbi.compression.container import Sections
from pyro_turbovbi.compression.integer_coding import (
    LARGEST,
    MagnitudeModel,
    code_magnitudes,
    code_signed,
)
from pyro_turbovbi.compression.quantisation import Step
from pyro_turbovbi.compression.stored import TensorSize, codes_to_scales, scales_to_codes
from pyro_turbovbi.compression.support_coding import (
    TEMPLATE_NAMES,
    Layout,
    choose_layout,
    code_support,
    fronts,
)
from pyro_turbovbi.errors import ArtifactError

ENTRIES, ENTRIES_PER_BYTE = 1 << 20, 1 << 12
MOST_ENTRIES = 1 << 28
"""Bounds on the entries of all tensors together: what a file can justify."""
FRONTS, FRONTS_PER_BYTE = 1 << 17, 1 << 4
"""Bounds on the steps of decoding all supports together."""

_TYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.complex64, torch.complex128),
)
TYPES_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in _TYPES}
"""Types of stored tensors."""

Entry = dict[str, Any]
"""What a manifest says of one tensor."""


class _Laws:
    """The laws of multiples: one for all weights of a network, one for all biases."""

    def __init__(self) -> None:
        self._weights, self._biases = MagnitudeModel(), MagnitudeModel()

    def of(self, shape: torch.Size) -> MagnitudeModel:
        return self._weights if len(shape) > 1 else self._biases


class TensorWriter:
    """Writes tensors one after the other.

    Attributes:
        coder: Takes the decisions.
        exact: Takes the exact values.
    """

    def __init__(self) -> None:
        self.coder = Encoder()
        self.multiples, self.scales = _Laws(), MagnitudeModel()
        self.exact: list[bytes] = []

    def marks(self, marks: Tensor) -> Entry:
        """Writes which units are kept: a boolean vector."""
        keep, size = _bits(marks.cpu()), marks.numel()
        # Inputs are often pixels or positions, laid out row by row.
        layout = choose_layout(keep, (w for w in range(size, 1, -1) if size % w == 0))
        code_support(self.coder, size, layout, keep)
        return {"support": layout.template, "columns": max(1, layout.columns)}

    def tensor(
        self, tensor: Tensor, default: torch.dtype, step: Step | None, scale: Tensor | None
    ) -> Entry:
        """Writes a tensor and its standard deviations, each where there is one."""
        tensor = tensor.detach().cpu().contiguous()
        flat, columns = tensor.reshape(-1), _columns(tensor.shape)
        kept = flat != 0
        multiples = None if step is None else _multiples(flat, step)
        entry: Entry = {}
        if tensor.dtype != default:
            entry["dtype"] = str(tensor.dtype).removeprefix("torch.")
        if step is not None and multiples is not None:
            entry |= {"support": self._support(_bits(kept), columns), "step": list(step)}
            law = self.multiples.of(tensor.shape)
            code_signed(self.coder, law, len(multiples), multiples)
        elif not _bytes_of(flat[~kept]).strip(b"\0") and _is_sparse(flat, kept):
            entry["support"] = self._support(_bits(kept), columns)
            self.exact.append(_bytes_of(flat[kept]))
        else:
            self.exact.append(_bytes_of(flat))
        if scale is not None:
            codes = scales_to_codes(scale.cpu().reshape(-1)).numpy().astype(np.int64)
            entry["scale"] = int(codes[codes > 0].min(initial=255))
            _code_scales(self.coder, self.scales, kept, entry["scale"], codes)
        return entry

    def _support(self, kept: Bits, columns: int) -> int:
        template = choose_layout(kept, [columns]).template
        code_support(self.coder, len(kept), Layout(template, columns), kept)
        return template


class TensorReader:
    """Reads tensors back in the order in which they were written.

    Args:
        sections: The file.
        size: Its bytes.

    Attributes:
        coder: Gives the decisions.
        exact: The exact values that are left.
        sizes: What every tensor took.
    """

    def __init__(self, sections: Sections, size: int) -> None:
        self.coder = Decoder(sections.coded)
        self.exact = memoryview(sections.exact)
        self.entries = min(ENTRIES + ENTRIES_PER_BYTE * size, MOST_ENTRIES)
        self.fronts = FRONTS + FRONTS_PER_BYTE * size
        self.multiples, self.scales = _Laws(), MagnitudeModel()
        self.sizes: list[TensorSize] = []
        self._mark = 0.0

    def marks(self, name: str, entry: Entry, size: int) -> Tensor:
        """Which of `size` units are kept, as a boolean vector."""
        whole(size, 0, MOST_ENTRIES)
        keep, coding = self._support(entry, size, whole(entry["columns"], 1, None))
        self.sizes.append(TensorSize(name, (size,), int(keep.sum()), coding, self._spent(), 0.0))
        return keep

    def tensor(self, name: str, entry: Entry, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """A tensor and its standard deviations; shape and default type are those of `like`."""
        dtype = TYPES_BY_NAME[entry["dtype"]] if "dtype" in entry else like.dtype
        left, coding, support_bits = len(self.exact), "dense", 0.0
        if "support" in entry:
            kept, coding = self._support(entry, like.numel(), _columns(like.shape))
            support_bits = self._spent()
            flat = torch.zeros(like.numel(), dtype=dtype)
            flat[kept] = self._values(entry, int(kept.sum()), dtype, like.shape)
        else:
            flat = self._take(like.numel(), dtype)
            kept = flat != 0
        value_bits, scale = 8.0 * (left - len(self.exact)) + self._spent(), None
        if "scale" in entry:
            codes = _code_scales(self.coder, self.scales, kept, whole(entry["scale"], 1, 255))
            scale = codes_to_scales(codes, dtype).reshape(like.shape)
        coding += ", quantised" if "step" in entry else ""
        shape, count = tuple(like.shape), int(kept.sum())
        bits = support_bits, value_bits, self._spent()
        self.sizes.append(TensorSize(name, shape, count, coding, *bits))
        return flat.reshape(like.shape), scale

    def finish(self) -> None:
        """Checks that nothing is left over."""
        if len(self.exact) or not self.coder.exhausted:
            raise ArtifactError("the file has more content than it describes")

    def _support(self, entry: Entry, cells: int, columns: int) -> tuple[Tensor, str]:
        """A support, shape [cells], and the name of its coding."""
        layout = Layout(whole(entry["support"], 0, len(TEMPLATE_NAMES) - 1), columns)
        if cells % columns:
            raise ArtifactError("the rows of a support are not whole", given=columns)
        self.entries -= cells
        self.fronts -= fronts(cells, layout)
        if self.entries < 0 or self.fronts < 0:
            raise ArtifactError(
                "the file stands for more than a file of its size can",
                accepted=f"{ENTRIES:,} entries and {ENTRIES_PER_BYTE:,} a byte",
            )
        kept = torch.from_numpy(code_support(self.coder, cells, layout)).bool()
        return kept, TEMPLATE_NAMES[layout.template]

    def _values(self, entry: Entry, count: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
        if "step" not in entry:
            return self._take(count, dtype)
        mantissa, exponent = entry["step"]
        step = Step(whole(mantissa, 8, 15), whole(exponent, -200, 200))
        multiples = torch.from_numpy(code_signed(self.coder, self.multiples.of(shape), count))
        return (multiples.double() * step.size).to(dtype)

    def _take(self, count: int, dtype: torch.dtype) -> Tensor:
        """The next exact values; their bytes are there before memory is taken."""
        size = count * dtype.itemsize
        if size > len(self.exact):
            raise ArtifactError("the file has too few exact values", given=len(self.exact))
        taken, self.exact = self.exact[:size], self.exact[size:]
        if not size:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(taken), dtype=dtype)

    def _spent(self) -> float:
        """Bits of the decisions since the last call."""
        before, self._mark = self._mark, self.coder.spent
        return self._mark - before


def _code_scales(
    coder: BitCoder, model: MagnitudeModel, kept: Tensor, base: int, codes: Indices | None = None
) -> Tensor:
    """Writes or reads codes of standard deviations: which entries have one, and which."""
    # Almost always, an entry has a standard deviation if and only if it is not zero.
    flags, some = AdaptiveModel(2), np.zeros(len(kept), np.uint8)
    for context in (0, 1):
        at = kept.numpy() == context
        truth = None if codes is None else (codes[at] > 0).astype(np.uint8)
        some[at] = coder.run(flags, context, int(at.sum()), truth)
    known = None if codes is None else codes[some != 0] - base + 1
    above = code_magnitudes(coder, model, int(some.sum()), known)
    if len(above) and int(above.max()) + base - 1 > 255:
        raise ArtifactError("a standard deviation is out of range")
    coded = np.zeros(len(some), np.uint8)
    coded[some != 0] = above + base - 1
    return torch.from_numpy(coded)


def _multiples(flat: Tensor, step: Step) -> Indices | None:
    """The entries that are not zero in steps; None if the tensor does not lie on the grid."""
    counts = (flat.double() / step.size).round()
    back = (counts * step.size).to(flat.dtype)
    if _bytes_of(back + 0.0) != _bytes_of(flat) or bool((counts.abs() > LARGEST).any()):
        return None
    return counts[counts != 0].long().numpy()


def _is_sparse(flat: Tensor, kept: Tensor) -> bool:
    """Whether leaving zeros out can pay: a support costs less than a bit an entry."""
    return len(flat) > 8 and int(kept.sum()) * flat.element_size() + len(flat) / 8 < (
        len(flat) * flat.element_size()
    )


def _columns(shape: torch.Size) -> int:
    """Row length of the matrix view (out, everything else); a vector is one row."""
    return max(1, shape[1:].numel() if len(shape) > 1 else shape.numel())


def whole(value: object, least: int, most: int | None) -> int:
    """A number from a file that must be whole and within bounds.

    Args:
        value: What the file says.
        least: The smallest number.
        most: The largest one; None if there is no bound.

    Returns:
        The number.

    Raises:
        ArtifactError: If it is anything else.
    """
    if type(value) is not int or value < least or (most is not None and value > most):
        raise ArtifactError("the file has a number out of range", given=value)
    return value


def _bits(kept: Tensor) -> Bits:
    return kept.numpy().astype(np.uint8)


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
