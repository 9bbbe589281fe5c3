"""The chain recursion compiled for CPUs: many chains in vector lanes, groups of them in threads.

Consecutive chains are solved side by side, `_LANES` of them, in tiles of `_TILE` elements each that
are read, computed and written while they are in the first-level cache. Chains that run along memory
(row chains) are transposed on the way in and out, eight by eight, in registers. Nothing is copied
as a whole. All arithmetic is in double precision, whatever the storage: in a chain that hardly ever
changes state the messages add up over the whole length, and so would single-precision rounding.

Per element there is one `exp` and one division on the way forwards, and one division and one `log`
on the way back. Normalisers are multiplied up, their powers of two counted apart, so that the
log-evidence takes one `log` per chain; expected transitions share the division of the message. What
the way back needs stays in scratch memory, which each thread keeps from call to call; a chain too
long for it goes through it in pieces, from checkpoints of the forward recursion.

`exp` and `log` are polynomials without branches or tables, so that they run in vector registers;
both are within a few units in the last place on the range that the saturated recursion can reach
(`|llr| <= 200`, odds between 1e-120 and 1e120).

Why Numba and not a C++ extension: one pinned wheel for every platform and Python instead of a
compiler on the user's machine or a build per version of torch; the code is compiled for the very
processor that it runs on, so that the widest vector registers are used; and vectorised over chains
it is bound by division and memory, where C++ would be no faster. It is the extra `fast`; without it
`reference` takes over. Machine code is cached next to this file or, where that is read-only, in the
user's cache directory; without it the first call compiles, for about ten seconds.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from pyro_turbovbi.kernels._threads import in_threads
from pyro_turbovbi.kernels.law import SATURATION, ChainLaw, ChainSummary

Array = NDArray[Any]
KernelT = TypeVar("KernelT", bound=Callable[..., Any])

_LANES = 32  # four of the widest registers hide the latency of a division
_TILE = 32  # steps that are read and written at a time: fits the first-level cache
_STEPS = 5120  # 2.5 MiB of scratch memory; longer chains are solved forwards twice,
_PIECE = 512  # in pieces that fit the second-level cache
_LINE = 16  # elements of a cache line in single precision
_GATED = 256  # elements that are gated at a time
_BLOCK, _SUMMED = 2**14, 64  # elements per partial sum, and how many are added side by side

# where the running values of the lanes begin: one flat array, because the compiler can only see
# that places at fixed distances do not overlap
_PAST, _BEHIND, _EXCESS, _NORM, _POWER, _COUNTS, _CHANGE = (
    place * _LANES for place in (0, 1, 2, 3, 4, 5, 9)
)
_STATE = 10 * _LANES
_SMALL = 2.0**-200

_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
_INVERSE_LN2 = 1.4426950408889634
_ROUND = 6755399441055744.0  # 1.5 * 2^52: adding it leaves the nearest integer in the low bits
_ROUND_BITS = np.int64(0x4338000000000000)
_HALF_ROOT_BITS = np.int64(0x3FE6A09E667F3BCD)  # sqrt(1/2)
_EXPONENT = np.int64(52)
_MANTISSA, _ONE = np.int64(0x000FFFFFFFFFFFFF), np.int64(0x3FF0000000000000)
_BIAS = np.int64(1023)


def _inline(function: KernelT, cache: bool = False) -> KernelT:
    """Compile a part of a kernel; multiply-adds are fused, nothing is reordered."""
    # a run-time type checker may have wrapped the function; Numba compiles what is inside
    inner = inspect.unwrap(function)
    compiled = numba.njit(
        inner, cache=cache, nogil=True, fastmath={"contract"}, error_model="numpy"
    )
    return cast(KernelT, compiled)


def _kernel(function: KernelT) -> KernelT:
    """Compile a kernel and keep its machine code between processes, where there is a place."""
    try:
        return _inline(function, cache=True)
    except RuntimeError:  # no directory that could be written
        return _inline(function)


@_inline
def _exp(x: float) -> float:
    """`e^x` for `|x| <= 700`: Chebyshev interpolation of degree 11 on half a binade."""
    shifted = x * _INVERSE_LN2 + _ROUND
    whole = shifted - _ROUND
    r = (x - whole * _LN2_HIGH) - whole * _LN2_LOW
    q = 2.510038549551032e-08
    q = q * r + 2.7620088445409746e-07
    q = q * r + 2.7557268459997064e-06
    q = q * r + 2.4801521295954376e-05
    q = q * r + 0.00019841269863053618
    q = q * r + 0.0013888888917213717
    q = q * r + 0.008333333333330062
    q = q * r + 0.04166666666662413
    q = q * r + 0.16666666666666669
    q = q * r + 0.5
    q = (q * r) * r + r + 1.0
    scale = np.float64(shifted).view(np.int64) << _EXPONENT
    return np.int64(np.float64(q).view(np.int64) + scale).view(np.float64)


@_inline
def _log(x: float) -> float:
    """`ln x` of a positive normal number: `2 artanh(s)`, `s = (m - 1) / (m + 1)`."""
    bits = np.float64(x).view(np.int64)
    whole = (bits - _HALF_ROOT_BITS) >> _EXPONENT
    m = np.int64(bits - (whole << _EXPONENT)).view(np.float64)
    power = np.int64(whole + _ROUND_BITS).view(np.float64) - _ROUND
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    q = 0.14616721184411827
    q = q * z + 0.15331699633108692
    q = q * z + 0.1818288978620705
    q = q * z + 0.22222211125722527
    q = q * z + 0.2857142862603107
    q = q * z + 0.3999999999989938
    q = q * z + 0.666666666666667
    return power * _LN2_HIGH + (2.0 * s + (s * z * q + power * _LN2_LOW))


def _block(kind: str) -> Any:
    """A function that copies and converts a block of elements between flat arrays in registers.

    Its arguments are `to, to_at, to_pitch, source, at, pitch`. Row `k` of the block starts at
    `source[at + k pitch]`; the kinds are

        move        1 x 16, copied as it is
        turn        8 x 8, transposed
        turn_back   16 x 8, transposed

    so that single precision is written in whole cache lines, which need not be fetched before.
    Compilers find no good instructions for that by themselves.
    """

    def define(typing: Any, to: Any, to_at: Any, to_pitch: Any, source: Any, at: Any, pitch: Any):  # type: ignore[no-untyped-def]
        return types.void(to, types.intp, types.intp, source, types.intp, types.intp), generate

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, origin = signature.args[0].dtype, signature.args[3].dtype

        def place(array: int, k: int, vector: Any) -> Any:
            data = context.make_array(signature.args[array])(context, builder, args[array]).data
            shift = builder.mul(args[array + 2], ir.Constant(args[array + 2].type, k))
            start = builder.gep(data, [builder.add(args[array + 1], shift)])
            return builder.bitcast(start, vector.as_pointer())

        def load(k: int, width: int) -> Any:
            value = builder.load(place(3, k, ir.VectorType(context.get_value_type(origin), width)))
            value.align = origin.bitwidth // 8
            if origin.bitwidth <= target.bitwidth:
                return value
            return builder.fptrunc(value, ir.VectorType(context.get_value_type(target), width))

        def store(value: Any, t: int) -> None:
            wide = ir.VectorType(context.get_value_type(target), value.type.count)
            value = builder.fpext(value, wide) if origin.bitwidth < target.bitwidth else value
            builder.store(value, place(0, t, wide)).align = target.bitwidth // 8

        if kind == "move":
            store(load(0, 16), 0)
            return context.get_dummy_value()
        columns = _transposed(builder, [load(k, 8) for k in range(8)])
        if kind == "turn_back":
            more = _transposed(builder, [load(k, 8) for k in range(8, 16)])
            columns = [
                _pick(builder, *pair, *range(16)) for pair in zip(columns, more, strict=True)
            ]
        for t, column in enumerate(columns):
            store(column, t)
        return context.get_dummy_value()

    return intrinsic(define)


def _pick(builder: Any, one: Any, other: Any, *order: int) -> Any:
    """Elements of two vectors that are numbered through."""
    places = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), list(order))
    return builder.shuffle_vector(one, other, places)


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of eight rows of eight elements, by shuffles that processors have."""

    def pick(one: Any, other: Any, *order: int) -> Any:
        return _pick(builder, one, other, *order)

    pairs = []  # within each half: two elements of two rows, alternating
    for k in range(0, 8, 2):
        pairs.append(pick(rows[k], rows[k + 1], 0, 8, 1, 9, 4, 12, 5, 13))
        pairs.append(pick(rows[k], rows[k + 1], 2, 10, 3, 11, 6, 14, 7, 15))
    fours = []  # one element of four rows, and the one four places on
    for k in (0, 1, 4, 5):
        fours.append(pick(pairs[k], pairs[k + 2], 0, 1, 8, 9, 4, 5, 12, 13))
        fours.append(pick(pairs[k], pairs[k + 2], 2, 3, 10, 11, 6, 7, 14, 15))
    halves = ((0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15))
    return [pick(fours[t % 4], fours[t % 4 + 4], *halves[t // 4]) for t in range(8)]


_move, _turn, _turn_back = (_block(kind) for kind in ("move", "turn", "turn_back"))


def _prefetch_code(typing: Any, array: Any, at: Any) -> Any:
    """Ask for the cache line of an element, which need not exist."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        place = builder.bitcast(builder.gep(data, [args[1]]), byte)
        builder.call(prefetch, [place, *(ir.Constant(word, x) for x in (0, 3, 1))])  # to read, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


_prefetch: Any = intrinsic(_prefetch_code)


@_inline
def _ask(source: Array, chain: int, start: int, n: int, w: int, length: int, inner: int) -> None:
    """Prefetch what `_read` or `_write` with the same arguments will need."""
    if inner == 1:
        for k in range(w):
            for t in range(0, n, _LINE):
                _prefetch(source, (chain + k) * length + start + t)
        return
    outer, skip = chain // inner, chain % inner
    for t in range(n):
        for k in range(0, w, _LINE):
            _prefetch(source, (outer * length + start + t) * inner + skip + k)


@_inline
def _read_rows(tile: Array, source: Array, at: int, n: int, w: int, length: int) -> None:
    """Fill a tile `[n, _LANES]` from `w` chains that run along memory, the first from `at`."""
    whole_n, whole_w = n // 8 * 8, w // 8 * 8
    for k in range(0, whole_w, 8):
        for t in range(0, whole_n, 8):
            _turn(tile, t * _LANES + k, _LANES, source, at + k * length + t, length)
        for t in range(whole_n, n):
            for lane in range(k, k + 8):
                tile[t * _LANES + lane] = source[at + lane * length + t]
    for lane in range(whole_w, w):
        for t in range(n):
            tile[t * _LANES + lane] = source[at + lane * length + t]


@_inline
def _write_rows(target: Array, tile: Array, at: int, n: int, w: int, length: int) -> None:
    """The reverse of `_read_rows`."""
    whole_n, whole_w = n // 16 * 16, w // 8 * 8
    for k in range(0, whole_w, 8):
        for t in range(0, whole_n, 16):
            _turn_back(target, at + k * length + t, length, tile, t * _LANES + k, _LANES)
        for t in range(whole_n, n):
            for lane in range(k, k + 8):
                target[at + lane * length + t] = tile[t * _LANES + lane]
    for lane in range(whole_w, w):
        for t in range(n):
            target[at + lane * length + t] = tile[t * _LANES + lane]


@_inline
def _get(to: Array, to_at: int, source: Array, at: int, w: int) -> None:
    """Copy and convert `w` elements that are neighbours in memory."""
    whole = w // 16 * 16
    for k in range(0, whole, 16):
        _move(to, to_at + k, 0, source, at + k, 0)
    for k in range(whole, w):
        to[to_at + k] = source[at + k]


@_inline
def _put(to: Array, source: Array, w: int) -> None:
    """As `_get`, the other way; by measurement writes in plain loops suit large matrices better."""
    if w == _LANES:
        for k in range(_LANES):  # of a fixed number the compiler makes straight vector code
            to[k] = source[k]
    else:
        for k in range(w):
            to[k] = source[k]


@_inline
def _read(
    tile: Array, source: Array, chain: int, start: int, n: int, w: int, length: int, inner: int
) -> None:
    """Fill a tile `[n, _LANES]` with the elements from `start` of `w` chains from `chain`."""
    if inner == 1:
        _read_rows(tile, source, chain * length + start, n, w, length)
        return
    lane = 0
    while lane < w:  # chains that are neighbours in memory
        outer, skip = (chain + lane) // inner, (chain + lane) % inner
        run = min(inner - skip, w - lane)
        for t in range(n):
            i, j = (outer * length + start + t) * inner + skip, t * _LANES + lane
            _get(tile, j, source, i, run)
        lane += run


@_inline
def _write(
    target: Array, tile: Array, chain: int, start: int, n: int, w: int, length: int, inner: int
) -> None:
    """The reverse of `_read`."""
    if inner == 1:
        _write_rows(target, tile, chain * length + start, n, w, length)
        return
    lane = 0
    while lane < w:
        outer, skip = (chain + lane) // inner, (chain + lane) % inner
        run = min(inner - skip, w - lane)
        for t in range(n):
            i, j = (outer * length + start + t) * inner + skip, t * _LANES + lane
            _put(target[i : i + run], tile[j : j + run], run)
        lane += run


@_inline
def _add(total: Array, more: Array) -> None:
    """Add to a whole tile."""
    for i in range(_TILE * _LANES):
        total[i] += more[i]


@_inline
def _mix(new: Array, old: Array, state: Array, damping: float) -> None:
    """Damp one step of new messages; note the largest change of each lane."""
    for k in range(_LANES):
        difference = (1.0 - damping) * (new[k] - old[k])
        new[k] = old[k] + difference
        state[_CHANGE + k] = max(state[_CHANGE + k], abs(difference))


@_inline
def _forward(
    llr: Array, step: Array, state: Array, p00: float, p01: float, p10: float, p11: float
) -> None:
    """One element forwards: keep its odds and what reaches it, and pass the message on."""
    for k in range(_LANES):
        odds, past = _exp(min(max(llr[k], -SATURATION), SATURATION)), state[_PAST + k]
        step[k] = odds
        step[_LANES + k] = past
        x = past * odds
        state[_PAST + k] = (p10 + p11 * x) / (p00 + p01 * x)


@_inline
def _forward_with_norm(
    llr: Array, step: Array, state: Array, p00: float, p01: float, p10: float, p11: float
) -> None:
    """As `_forward`, with the product of the normalisers: powers of two apart from the rest.

    Evidence beyond saturation, which the recursion does not see, adds up beside it.
    """
    for k in range(_LANES):
        raw = llr[k]
        odds, past = _exp(min(max(raw, -SATURATION), SATURATION)), state[_PAST + k]
        state[_EXCESS + k] += max(raw - SATURATION, 0.0)
        step[k] = odds
        step[_LANES + k] = past
        x = past * odds
        norm = p00 + p01 * x
        state[_PAST + k] = (p10 + p11 * x) / norm
        bits = np.float64(norm).view(np.int64)
        power = np.float64(state[_POWER + k]).view(np.int64) + (bits >> _EXPONENT)
        state[_POWER + k] = np.int64(power).view(np.float64)
        state[_NORM + k] *= np.int64((bits & _MANTISSA) | _ONE).view(np.float64)


@_inline
def _carry(state: Array, factors: int) -> None:
    """Move the powers of two out of a product of `factors` normalisers, before it overflows."""
    for k in range(_LANES):
        bits = np.float64(state[_NORM + k]).view(np.int64)
        power = np.float64(state[_POWER + k]).view(np.int64) + (bits >> _EXPONENT)
        state[_POWER + k] = np.int64(power - (factors + 1) * _BIAS).view(np.float64)
        state[_NORM + k] = np.int64((bits & _MANTISSA) | _ONE).view(np.float64)


@_inline
def _backward(new: Array, step: Array, state: Array, offset: float, p01: float, p10: float) -> None:
    """One element backwards: its new message, and what it passes on, its own odds included."""
    p00, p11 = 1.0 - p01, 1.0 - p10
    for k in range(_LANES):
        behind = state[_BEHIND + k]
        future = (p10 + p11 * behind) / (p00 + p01 * behind)
        state[_BEHIND + k] = future * step[k]
        new[k] = offset + _log(step[_LANES + k] * future)


@_inline
def _backward_with_counts(
    new: Array, step: Array, state: Array, offset: float, p01: float, p10: float
) -> None:
    """As `_backward`, with the expected transition out of the element.

    The probability of `0 -> 0` is `p00 / s`, `s = d + (p01 / p10) x n`, where `x` is the odds of
    the element's past and evidence and `n / d` the message from its future; the other three are
    products of the same factors. One division serves the message and the probabilities; `_SMALL`
    keeps its denominator from overflowing.
    """
    p00, p11 = 1.0 - p01, 1.0 - p10
    ratio = p01 / p10 * _SMALL
    for k in range(_LANES):
        behind, odds, past = state[_BEHIND + k], step[k], step[_LANES + k]
        x = past * odds
        n, d = p10 + p11 * behind, p00 + p01 * behind
        s = _SMALL * d + (ratio * x) * n
        inverse = 1.0 / (d * s)
        future, share = n * s * inverse, d * inverse
        state[_COUNTS + k] += share
        state[_COUNTS + _LANES + k] += share * behind
        state[_COUNTS + 2 * _LANES + k] += share * x
        state[_COUNTS + 3 * _LANES + k] += share * x * behind
        state[_BEHIND + k] = future * odds
        new[k] = offset + _log(past * future)


@_inline
def _start(tile: Array, state: Array) -> None:
    """Nothing is known yet; lanes without a chain have no evidence."""
    tile[:], state[:] = 0.0, 0.0
    for k in range(_LANES):
        # odds of one from behind the last element are passed on as odds of one
        state[_PAST + k] = state[_BEHIND + k] = state[_NORM + k] = 1.0


@_inline
def _finish_evidence(evidence: Array, state: Array, p01: float, p10: float) -> None:
    """Log-evidence of the chains of a group."""
    for k in range(evidence.size):
        power = np.float64(np.float64(state[_POWER + k]).view(np.int64))
        log_norm = _log(state[_NORM + k]) - _log(p01 + p10)
        evidence[k] = (power * _LN2_HIGH + log_norm) + power * _LN2_LOW + state[_EXCESS + k]


@_inline
def _finish_counts(counts: Array, state: Array, p01: float, p10: float) -> None:
    """Expected transition counts `[w, 4]` of the chains of a group."""
    p00, p11 = 1.0 - p01, 1.0 - p10
    for k in range(counts.shape[0]):
        counts[k, 0] = state[_COUNTS + k] * p00 * _SMALL
        counts[k, 1] = state[_COUNTS + _LANES + k] * p01 * _SMALL
        counts[k, 2] = state[_COUNTS + 2 * _LANES + k] * p01 * _SMALL
        counts[k, 3] = state[_COUNTS + 3 * _LANES + k] * (p11 * p01 / p10) * _SMALL


@_kernel
def _solve(
    llr: Array,
    other: Array,
    message: Array,
    offset: float,
    damping: float,
    track: bool,
    length: int,
    inner: int,
    first: int,
    last: int,
    p01: float,
    p10: float,
    evidence: Array,
    counts: Array,
    steps: Array,
    tiles: Array,
    state: Array,
    checkpoints: Array,
) -> float:
    """Update the messages of the groups `first .. last` of chains; the largest change if tracked.

    The first three are flat views of `[outer, length, inner]`, `other` may be empty; chain `c` is
    `[c // inner, :, c % inner]`. `evidence [chains]` and `counts [chains, 4]` are filled unless
    they are empty. The last four are a thread's scratch memory, see `_Scratch`.
    """
    p00, p11 = 1.0 - p01, 1.0 - p10
    chains = llr.size // length
    size = _STEPS if length <= _STEPS else _PIECE
    pieces = (length + size - 1) // size
    tile, spare = tiles[0], tiles[1]
    rows, olds = tile.reshape((_TILE, _LANES)), spare.reshape((_TILE, _LANES))
    residual = 0.0
    for group in range(first, last):
        chain = group * _LANES
        w = min(_LANES, chains - chain)
        _start(tile, state)
        # forwards to the last piece, of which only checkpoints are kept, then backwards
        for visit in range(2 * pieces - 1):
            piece = min(visit, 2 * (pieces - 1) - visit)
            origin = piece * size
            end = min(origin + size, length)
            known, returns = visit >= pieces, visit >= pieces - 1
            if known:
                state[_PAST : _PAST + _LANES] = checkpoints[piece]
            else:
                checkpoints[piece] = state[_PAST : _PAST + _LANES]
            for start in range(origin, end, _TILE):
                n, kept = min(_TILE, end - start), start - origin if returns else 0
                _ask(llr, chain, start + _TILE, _TILE, w, length, inner)
                _read(tile, llr, chain, start, n, w, length, inner)
                if other.size:
                    _ask(other, chain, start + _TILE, _TILE, w, length, inner)
                    _read(spare, other, chain, start, n, w, length, inner)
                    _add(tile, spare)
                if known or not evidence.size:
                    for t in range(n):
                        _forward(rows[t], steps[kept + t], state, p00, p01, p10, p11)
                    continue
                for t in range(n):
                    # the last normaliser closes the chain; the message behind it goes nowhere
                    stay = p10 if start + t == length - 1 else p00
                    step = steps[kept + t]
                    _forward_with_norm(rows[t], step, state, stay, p01, p10, p11)
                _carry(state, n)
            if not returns:
                continue
            for back in range((end - origin + _TILE - 1) // _TILE):
                start = origin + (end - origin - 1) // _TILE * _TILE - back * _TILE
                n = min(_TILE, end - start)
                # columns come in many short runs that would be evicted again: not a tile ahead
                soon = start - _TILE if inner == 1 else start
                _ask(message, chain, soon, _TILE, w, length, inner)
                for s in range(n):
                    t = n - 1 - s
                    step = steps[start - origin + t]
                    if counts.size:
                        _backward_with_counts(rows[t], step, state, offset, p01, p10)
                        if start + t == length - 1:  # from here no transition leads on
                            state[_COUNTS : _COUNTS + 4 * _LANES] = 0.0
                    else:
                        _backward(rows[t], step, state, offset, p01, p10)
                if track:
                    _read(spare, message, chain, start, n, w, length, inner)
                    for t in range(n):
                        _mix(rows[t], olds[t], state, damping)
                _write(message, tile, chain, start, n, w, length, inner)
        for k in range(w):
            residual = max(residual, state[_CHANGE + k])
        if evidence.size:
            _finish_evidence(evidence[chain : chain + w], state, p01, p10)
        if counts.size:
            _finish_counts(counts[chain : chain + w], state, p01, p10)
    return residual


@_inline
def _softplus_block(
    llr: Array, row: Array, column: Array, total: Array, product: Array, prior: float
) -> None:
    """Add `softplus(prior + llr + row + column)`: the large part, and a product of the rest."""
    for k in range(llr.size):
        y = prior + np.float64(llr[k]) + np.float64(row[k]) + np.float64(column[k])
        total[k] += max(y, 0.0)
        product[k] *= 1.0 + _exp(max(-abs(y), -700.0))


@_kernel
def _sum_elements(
    llr: Array, row: Array, column: Array, sums: Array, size: int, first: int, last: int,
    prior: float, state: Array,
) -> None:  # fmt: skip
    """Sums of `ln(1 - d + d exp(llr + row + column))`, `prior = logit(d)`, block after block.

    Grids have `size` elements each, in blocks of `_BLOCK` and a rest; `sums` is one per block.
    """
    per_grid = (size + _BLOCK - 1) // _BLOCK
    absent = max(prior, 0.0) + _log(1.0 + _exp(max(-abs(prior), -700.0)))
    total, product = state[:_SUMMED], state[_SUMMED : 2 * _SUMMED]
    for block in range(first, last):
        begin = block // per_grid * size + block % per_grid * _BLOCK
        end = min(begin + _BLOCK, (block // per_grid + 1) * size)
        total[:], product[:] = 0.0, 1.0
        for i in range(begin, end, _SUMMED):
            j = min(i + _SUMMED, end)
            _softplus_block(llr[i:j], row[i:j], column[i:j], total, product, prior)
        for k in range(_SUMMED):
            total[k] += _log(product[k])
        sums[block] = total.sum() - (end - begin) * absent


@_inline
def _fill_gates(to: Array, gate: Array, at: int, length: int, inner: int) -> None:
    """The gates of the elements from flat offset `at`, one per place in `to`."""
    run = length if inner == 1 else inner
    done = 0
    while done < to.size:
        row, skip = (at + done) // run, (at + done) % run
        size = min(run - skip, to.size - done)
        if inner == 1:
            to[done : done + size] = gate[row]
        else:
            i = row // length * inner + skip
            to[done : done + size] = gate[i : i + size]
        done += size


@_inline
def _gate(llr: Array, message: Array, gate: Array) -> None:
    """What each element's chain and its gate, without that element, say about it, in log-odds."""
    for i in range(message.size):
        x, shift = np.float64(message[i]), np.float64(llr[i])
        y = x + shift
        own = max(y, 0.0) - max(x, 0.0)
        own += _log((1.0 + _exp(max(-abs(y), -700.0))) / (1.0 + _exp(max(-abs(x), -700.0))))
        # ln(e^a + e^b + e^(a + b)) with the largest of the three terms taken out
        a, b = own - gate[i], -x
        low, high = min(a, b), max(a, b)
        rest = 1.0 + _exp(max(-abs(low), -700.0)) + _exp(max(min(low, 0.0) - high, -700.0))
        message[i] = -(high + max(low, 0.0)) - _log(rest)


@_kernel
def _gate_elements(
    llr: Array, message: Array, gate: Array, length: int, inner: int, first: int, last: int,
    gates: Array,
) -> None:  # fmt: skip
    """Gate the elements `first .. last`; flat views of `[outer, length, inner]`."""
    for start in range(first, last, _GATED):
        stop = min(start + _GATED, last)
        part = gates[: stop - start]
        _fill_gates(part, gate, start, length, inner)
        _gate(llr[start:stop], message[start:stop], part)


def update_messages(
    llr: Tensor,
    other: Tensor | None,
    message: Tensor,
    law: ChainLaw,
    dim: int,
    *,
    offset: float = 0.0,
    damping: float = 0.0,
    residual: bool = False,
    pairwise: bool = False,
    log_evidence: bool = False,
) -> ChainSummary:
    """Solve all chains along a dim and write what they say about each element, in place.

    Args:
        llr: Log-likelihood ratios in nats, finite, contiguous, on the CPU, single or double.
        other: More evidence to be added to `llr`, in the same layout and dtype, or None.
        message: Overwritten by the log-odds of all evidence outside an element, without the
            stationary prior, plus `offset`; same layout and dtype.
        law: Transition probabilities, shared by all chains.
        dim: The dim along which the chains run.
        offset: Log-odds added to every new message, before damping.
        damping: Weight of the previous content of `message`.
        residual: Whether to measure the largest change of `message`.
        pairwise: Whether to compute expected transition counts.
        log_evidence: Whether to compute the log-evidence of each chain.

    Returns:
        What was asked for, in double precision.
    """
    dim %= llr.dim()
    length, inner = llr.shape[dim], llr.shape[dim + 1 :].numel()
    others = llr.shape[:dim] + llr.shape[dim + 1 :]
    chains = others.numel()
    evidence = torch.empty(chains if log_evidence else 0, dtype=torch.float64)
    counts = torch.empty(chains if pairwise else 0, 4, dtype=torch.float64)
    local, target = _flat(llr), _flat(message)
    more = local[:0] if other is None else _flat(other)
    track = residual or damping > 0

    def solve(first: int, last: int) -> float:
        return _solve(
            local, more, target, offset, damping, track, length, inner, first, last,
            law.p01, law.p10, evidence.numpy(), counts.numpy(), *_scratch().arrays(length),
        )  # fmt: skip

    changes = in_threads(solve, -(-chains // _LANES), llr.numel())
    return ChainSummary(
        log_evidence=evidence.view(others) if log_evidence else None,
        transitions=counts.view(*others, 2, 2) if pairwise else None,
        residual=max(changes),
    )


def gate_messages(llr: Tensor, message: Tensor, gate: Tensor, dim: int) -> None:
    """Turn messages within open chains into messages of gated chains, in place.

    A chain is all zeros unless its gate, a binary variable, is open. With `l` an element's
    log-likelihood ratio, `x` its extrinsic log-odds within the open chain and `g` the posterior
    log-odds of the gate, the gate's log-odds without this element's evidence are

        c = g - softplus(x + l) + softplus(x)

    and the element is a one if the gate is open and the chain says so: the new message is
    `logit(sigmoid(c) sigmoid(x)) = -ln(e^-c + e^-x + e^-(c + x))`.

    Args:
        llr: Log-likelihood ratios in nats, finite, contiguous, on the CPU, single or double.
        message: Extrinsic log-odds within the open chain, prior included; overwritten; same layout
            and dtype.
        gate: Posterior log-odds of every chain's gate, in double precision; the shape of `llr`
            without `dim`.
        dim: The dim along which the chains run.
    """
    dim %= llr.dim()
    length, inner = llr.shape[dim], llr.shape[dim + 1 :].numel()
    evidence, target, gates = _flat(llr), _flat(message), _flat(gate.contiguous())

    def solve(first: int, last: int) -> float:
        stop = min(last * _GATED, target.size)
        buffer = _scratch().state[:_GATED]
        _gate_elements(evidence, target, gates, length, inner, first * _GATED, stop, buffer)
        return 0.0

    in_threads(solve, -(-target.size // _GATED), target.size)


def element_evidence(llr: Tensor, row: Tensor, column: Tensor, prior: float) -> Tensor:
    """Log-evidence of all elements of each problem as if they were independent, `[batch]`.

    Args:
        llr: `[batch, elements]`, contiguous, on the CPU, single or double.
        row: What the rows say, same layout and dtype.
        column: What the columns say, same layout and dtype.
        prior: Stationary log-odds.

    Returns:
        Sums in nats in double precision.
    """
    flat = (_flat(llr), _flat(row), _flat(column))
    size = llr[0].numel()
    # blocks of a fixed size: the sums do not depend on the number of threads
    sums = np.empty(len(llr) * -(-size // _BLOCK))

    def add(first: int, last: int) -> float:
        _sum_elements(*flat, sums, size, first, last, prior, _scratch().state)
        return 0.0

    in_threads(add, sums.size, llr.numel())
    return torch.from_numpy(sums.reshape(len(llr), -1).sum(1))


def _flat(tensor: Tensor) -> Array:
    array: Array = tensor.view(-1).numpy()
    return array


class _Scratch(threading.local):
    """Scratch memory of a thread, kept from call to call: fresh memory costs a fault per page.

    Attributes:
        steps: `[_STEPS, 2 _LANES]`, odds of the evidence and messages from the past.
        tiles: `[2, _TILE _LANES]`, evidence or new messages of a tile, and what they are mixed
            with.
        state: Running values, `_LANES` each: see `_PAST` and those after it.
        checkpoints: `[pieces, _LANES]`, messages from the past at the start of every piece.
    """

    def __init__(self) -> None:
        self.steps = _aligned(_STEPS, 2 * _LANES)
        self.tiles = _aligned(2, _TILE * _LANES)
        self.state = _aligned(_STATE)
        self.checkpoints = _aligned(1, _LANES)

    def arrays(self, length: int) -> tuple[Array, Array, Array, Array]:
        """All of it, for chains of some length."""
        pieces = -(-length // _PIECE)
        if len(self.checkpoints) < pieces:
            self.checkpoints = _aligned(pieces, _LANES)
        return self.steps, self.tiles, self.state[: _CHANGE + _LANES], self.checkpoints


def _aligned(*shape: int) -> Array:
    """New memory at a cache line, as torch gives it: vectors must not straddle two lines."""
    array: Array = torch.empty(shape, dtype=torch.float64).numpy()
    return array


@functools.cache
def _scratch() -> _Scratch:
    return _Scratch()
