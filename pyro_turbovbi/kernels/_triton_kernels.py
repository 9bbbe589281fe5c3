"""Triton kernels of `triton_scan`; imported only where Triton is installed.

A program solves a tile of chains. Every lane of the tile, in practice a thread, holds `STEPS`
consecutive elements of one chain in registers. It multiplies their matrices; a scan over the lanes
of the chain tells what enters each from both sides; then the lane goes through its elements, first
forwards, then backwards. Compared with a scan over single elements, most products are of a matrix
and a vector, and little is exchanged between threads.

Tiles of row chains are `[chains, lanes]`, so that the elements of a chain are neighbours in memory:
they are read and written as `[chains, lanes * STEPS]` and turned on the way. Tiles of column chains
are `[lanes, chains]` and each step is a line of memory.

The basis, the matrices and the padding with elements without evidence are those of `scan`. Factors
are taken out by powers of two made from the exponent's bits, which costs no division and rounds
nothing. A step shrinks a message by at most the smallest transition probability, so every fourth
step is often enough (a literal below: the interpreter does not compute with named constants).
"""

# Triton's language has no types; constants of compilation are in capitals; a kernel can add tuples
# but not unpack them into others.
# mypy: ignore-errors
# ruff: noqa: N803, N806, RUF005

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from pyro_turbovbi.kernels.law import SATURATION

_SATURATION = tl.constexpr(SATURATION)
_LN2 = tl.constexpr(0.6931471805599453)
_ROUND = tl.constexpr(6755399441055744.0)  # 1.5 * 2^52


def _jit(function: Callable[..., Any]) -> Any:
    """Hand a function to Triton as it was written: a run-time type checker may have wrapped it."""
    return triton.jit(inspect.unwrap(function))


@_jit
def _exponent(x):
    """Biased exponent of positive doubles."""
    return x.to(tl.int64, bitcast=True) >> 52


@_jit
def _inverse_power(exponent):
    """The power of two that takes numbers of a biased exponent to [1, 2)."""
    return ((2046 - exponent) << 52).to(tl.float64, bitcast=True)


@_jit
def _rescaled(m00, m01, m10, m11):
    """A matrix up to a factor, of entries around one."""
    factor = _inverse_power(_exponent((m00 + m01) + (m10 + m11)))
    return m00 * factor, m01 * factor, m10 * factor, m11 * factor


@_jit
def _then(a00, a01, a10, a11, b00, b01, b10, b11):
    """Product `B A`: first A, then B."""
    return _rescaled(
        b00 * a00 + b01 * a10,
        b00 * a01 + b01 * a11,
        b10 * a00 + b11 * a10,
        b10 * a01 + b11 * a11,
    )


@_jit
def _after(a00, a01, a10, a11, b00, b01, b10, b11):
    """Product `A B`: the scan runs from the end of the chain, A is what comes after B."""
    return _then(b00, b01, b10, b11, a00, a01, a10, a11)


@_jit
def _step(v0, v1, p00, switch, p11):
    """Product of the transition matrix and a vector."""
    return p00 * v0 + switch * v1, switch * v0 + p11 * v1


@_jit
def _turn(tile, STEPS: tl.constexpr):
    """The steps of `[chains, lanes, STEPS]`, a tuple of `[chains, lanes]`."""
    if STEPS == 1:
        return (tl.reshape(tile, (tile.shape[0], tile.shape[1])),)
    else:
        halves = tl.reshape(tile, (tile.shape[0], tile.shape[1], STEPS // 2, 2))
        even, odd = tl.split(halves)
        evens = _turn(even, STEPS // 2)
        odds = _turn(odd, STEPS // 2)
        steps = ()
        for s in tl.static_range(STEPS // 2):
            steps = steps + (evens[s], odds[s])
        return steps


@_jit
def _turn_back(steps, STEPS: tl.constexpr):
    """`[chains, lanes, STEPS]` of a tuple of `[chains, lanes]`."""
    if STEPS == 1:
        return tl.expand_dims(steps[0], 2)
    else:
        evens = ()
        odds = ()
        for s in tl.static_range(STEPS // 2):
            evens = evens + (steps[2 * s],)
            odds = odds + (steps[2 * s + 1],)
        halves = tl.join(_turn_back(evens, STEPS // 2), _turn_back(odds, STEPS // 2))
        return tl.reshape(halves, (halves.shape[0], halves.shape[1], STEPS))


@_jit
def _origin(
    chains, length, inner, chunks, ROWS: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr
):
    """Which tile this program solves.

    Returns:
        Its first chain, how many chains there are from it on that a tile may hold, its first
        element within the chains, its offset in memory, and its place among the chains' tiles.
    """
    program = tl.program_id(0).to(tl.int64)
    chunk = program % chunks
    group = program // chunks
    first = chunk * SPAN
    if ROWS:
        chain = group * WIDTH
        return chain, chains - chain, first, chain * length + first, chunk
    else:
        blocks = (inner + WIDTH - 1) // WIDTH
        outer = group // blocks
        column = group % blocks * WIDTH
        offset = (outer * length + first) * inner + column
        return outer * inner + column, inner - column, first, offset, chunk


@_jit
def _rows(length, WIDTH: tl.constexpr, SPAN: tl.constexpr):
    """Chain and element of a tile of row chains, and its offsets in memory."""
    chain = tl.arange(0, WIDTH)[:, None]
    element = tl.arange(0, SPAN)[None, :]
    return chain, element, chain.to(tl.int64) * length + element


@_jit
def _columns(inner, s, WIDTH: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr):
    """Chain and element of step `s` of a tile of column chains, and its offsets in memory."""
    chain = tl.arange(0, WIDTH)[None, :]
    element = tl.arange(0, LANES)[:, None] * STEPS + s
    return chain, element, element.to(tl.int64) * inner + chain


@_jit
def _read(
    source, length, inner, room, left,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """The steps of a tile, zero beyond the last chain and element: a tuple of lanes."""
    if ROWS:
        chain, element, offset = _rows(length, WIDTH, LANES * STEPS)
        tile = tl.load(source + offset, (chain < room) & (element < left), 0.0)
        return _turn(tl.reshape(tile, (WIDTH, LANES, STEPS)), STEPS)
    else:
        steps = ()
        for s in tl.static_range(STEPS):
            chain, element, offset = _columns(inner, s, WIDTH, LANES, STEPS)
            step = tl.load(source + offset, (chain < room) & (element < left), 0.0)
            steps = steps + (step,)
        return steps


@_jit
def _write(
    target, steps, length, inner, room, left,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Write the steps of a tile."""
    if ROWS:
        chain, element, offset = _rows(length, WIDTH, LANES * STEPS)
        tile = tl.reshape(_turn_back(steps, STEPS), (WIDTH, LANES * STEPS))
        tl.store(target + offset, tile, (chain < room) & (element < left))
    else:
        for s in tl.static_range(STEPS):
            chain, element, offset = _columns(inner, s, WIDTH, LANES, STEPS)
            tl.store(target + offset, steps[s], (chain < room) & (element < left))


@_jit
def _evidence(
    llr, other, offset, length, inner, room, left, OTHER: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Evidence of the steps of a tile in nats, in double precision."""
    own = _read(llr + offset, length, inner, room, left, ROWS, WIDTH, LANES, STEPS)
    steps = ()
    if OTHER:
        more = _read(other + offset, length, inner, room, left, ROWS, WIDTH, LANES, STEPS)
        for s in tl.static_range(STEPS):
            steps = steps + (own[s].to(tl.float64) + more[s].to(tl.float64),)
    else:
        for s in tl.static_range(STEPS):
            steps = steps + (own[s].to(tl.float64),)
    return steps


@_jit
def _decay(x, DOUBLE: tl.constexpr):
    """`e^-x` for `0 <= x <= 200`.

    Evidence in single precision gets Chebyshev interpolation of degree 9 on half a binade, within
    3e-14 relative and without the library's branches: exponentials are a third of all arithmetic.
    """
    if DOUBLE:
        return tl.exp(-x)
    else:
        shifted = x * -1.4426950408889634 + _ROUND  # leaves the nearest integer in the low bits
        r = -x - (shifted - _ROUND) * _LN2
        q = 2.763427296034064e-06 * r + 2.488446342235575e-05
        q = q * r + 0.0001984118603147346
        q = q * r + 0.0013888801742593406
        q = q * r + 0.008333333371827283
        q = q * r + 0.041666667040611435
        q = q * r + 0.16666666666598115
        q = q * r + 0.49999999999438277
        q = q * r + 1.0000000000000033
        q = q * r + 1.0
        power = shifted.to(tl.int64, bitcast=True) << 52
        return (q.to(tl.int64, bitcast=True) + power).to(tl.float64, bitcast=True)


@_jit
def _weights(llr, DOUBLE: tl.constexpr, STEPS: tl.constexpr):
    """Evidence of the steps for both states up to a factor; the larger one is one."""
    low = ()
    high = ()
    for s in tl.static_range(STEPS):
        smaller = _decay(tl.minimum(tl.abs(llr[s]), _SATURATION), DOUBLE)
        low = low + (tl.where(llr[s] > 0, smaller, 1.0),)
        high = high + (tl.where(llr[s] > 0, 1.0, smaller),)
    return low, high


@_jit
def _lane_product(low, high, p00, switch, p11, STEPS: tl.constexpr):
    """Product of the matrices of the steps of each lane."""
    m00, m01, m10, m11 = p00 * low[0], switch * high[0], switch * low[0], p11 * high[0]
    for s in tl.static_range(1, STEPS):
        m00, m10 = _step(low[s] * m00, high[s] * m10, p00, switch, p11)
        m01, m11 = _step(low[s] * m01, high[s] * m11, p00, switch, p11)
        if s % 4 == 3:
            m00, m01, m10, m11 = _rescaled(m00, m01, m10, m11)
    return _rescaled(m00, m01, m10, m11)


@_jit
def _lanes(ROWS: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr):
    """The lane of each entry of a tile."""
    if ROWS:
        return tl.broadcast_to(tl.arange(0, LANES)[None, :], (WIDTH, LANES))
    else:
        return tl.broadcast_to(tl.arange(0, LANES)[:, None], (LANES, WIDTH))


@_jit
def _last_two(a_second, a_last, b_second, b_last):
    """The last two of several positive numbers, zero where there is no second.

    A scan by it hands every lane the result of its neighbour. `tl.gather` would do that too, but
    makes the compiler lay out the whole kernel for it: every step is then turned in shared memory.
    """
    return tl.where(b_second > 0, b_second, a_last), b_last


@_jit
def _enter_lanes(
    m00, m01, m10, m11, left, right, ROWS: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr
):
    """Odds that enter every lane from both sides, given those that enter the tile."""
    AXIS: tl.constexpr = 1 if ROWS else 0
    lane = _lanes(ROWS, LANES, WIDTH)
    none = tl.zeros(lane.shape, tl.float64)
    a00, a01, a10, a11 = tl.associative_scan((m00, m01, m10, m11), AXIS, _then)
    behind = (a10 + a11 * left) / (a00 + a01 * left)
    behind, _ = tl.associative_scan((none, behind), AXIS, _last_two)
    b00, b01, b10, b11 = tl.associative_scan((m00, m01, m10, m11), AXIS, _after, reverse=True)
    ahead = (b01 + b11 * right) / (b00 + b10 * right)
    ahead, _ = tl.associative_scan((none, ahead), AXIS, _last_two, reverse=True)
    return tl.where(lane > 0, behind, left), tl.where(lane < LANES - 1, ahead, right)


@_jit
def _log_ratio(a, b, DOUBLE: tl.constexpr):
    """`ln(a / b)` of positive doubles.

    Messages in single precision get it to within 1e-6: exponents and leading bits of the mantissas
    go to single precision by integer operations, since a division and a logarithm in double
    precision would be half of all arithmetic.
    """
    if DOUBLE:
        return tl.log(a / b)
    else:
        power = (_exponent(a) - _exponent(b)).to(tl.int32).to(tl.float32)
        x, y = _mantissa(a), _mantissa(b)
        s = (x - y) / (x + y)  # ln(x / y) = 2 artanh(s), |s| < 1/3
        z = s * s
        q = z * 0.09090909 + 0.11111111
        q = q * z + 0.14285715
        q = q * z + 0.2
        q = q * z + 0.33333334
        return power * _LN2 + 2.0 * (s + s * z * q)


@_jit
def _mantissa(x):
    """Mantissas of positive doubles in [1, 2), cut to single precision."""
    bits = (x.to(tl.int64, bitcast=True) >> 29).to(tl.int32)
    return ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)


@_jit
def _store_four(place, size, a, b, c, d, mask):
    """Store tensors at a distance of `size`, whose multiples may need more bits than itself."""
    tl.store(place, a, mask)
    place += size
    tl.store(place, b, mask)
    place += size
    tl.store(place, c, mask)
    place += size
    tl.store(place, d, mask)


@_jit
def multiply(
    llr, other, law, products, chains, length, inner, chunks, size, OTHER: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Write the product of the matrices of every tile, `products [4, chains, chunks]`."""
    SPAN: tl.constexpr = LANES * STEPS
    DOUBLE: tl.constexpr = llr.dtype.element_ty == tl.float64
    chain, room, first, offset, chunk = _origin(chains, length, inner, chunks, ROWS, WIDTH, SPAN)
    p00, switch, p11 = tl.load(law), tl.load(law + 1), tl.load(law + 2)
    steps = _evidence(
        llr, other, offset, length, inner, room, length - first, OTHER, ROWS, WIDTH, LANES, STEPS
    )
    low, high = _weights(steps, DOUBLE, STEPS)
    m00, m01, m10, m11 = _lane_product(low, high, p00, switch, p11, STEPS)
    m00, m01, m10, m11 = tl.associative_scan((m00, m01, m10, m11), 1 if ROWS else 0, _then)
    lane = _lanes(ROWS, LANES, WIDTH)
    column = tl.arange(0, WIDTH)
    column = column[:, None] if ROWS else column[None, :]
    last = (lane == LANES - 1) & (column < room)
    place = products + ((chain + column) * chunks + chunk) + tl.zeros_like(lane)
    _store_four(place, size, m00, m01, m10, m11, last)


@_jit
def _load_products(products, chain, chunk, chains, chunks, size):
    """Products of tiles, the unit matrix where there are none."""
    there = (chain < chains) & (chunk < chunks)
    place = products + chain * chunks + chunk
    m00 = tl.load(place, there, 1.0)
    place += size
    m01 = tl.load(place, there, 0.0)
    place += size
    m10 = tl.load(place, there, 0.0)
    place += size
    return m00, m01, m10, tl.load(place, there, 1.0)


@_jit
def enter(law, products, entering, chains, chunks, size, WIDTH: tl.constexpr, SPAN: tl.constexpr):
    """Scan the tiles of each chain: `entering [2, chains, chunks]` is what enters from both sides.

    A program takes `WIDTH` chains, `SPAN` tiles of each at a time.
    """
    chain = (tl.program_id(0).to(tl.int64) * WIDTH + tl.arange(0, WIDTH))[:, None]
    place = tl.arange(0, SPAN)[None, :]
    end = tl.load(law + 3)
    odds = tl.zeros((WIDTH, 1), tl.float64) + end
    tl.store(entering + chain * chunks, odds, chain < chains)
    for first in range(0, chunks, SPAN):
        m00, m01, m10, m11 = _load_products(products, chain, first + place, chains, chunks, size)
        m00, m01, m10, m11 = tl.associative_scan((m00, m01, m10, m11), 1, _then)
        after = (m10 + m11 * odds) / (m00 + m01 * odds)
        chunk = first + place + 1
        tl.store(entering + chain * chunks + chunk, after, (chain < chains) & (chunk < chunks))
        odds = tl.sum(tl.where(place == SPAN - 1, after, 0.0), 1)[:, None]
    odds = tl.zeros((WIDTH, 1), tl.float64) + end
    entering += size
    tl.store(entering + chain * chunks + chunks - 1, odds, chain < chains)
    for back in range(0, chunks, SPAN):
        first = (tl.cdiv(chunks, SPAN) - 1) * SPAN - back
        m00, m01, m10, m11 = _load_products(products, chain, first + place, chains, chunks, size)
        m00, m01, m10, m11 = tl.associative_scan((m00, m01, m10, m11), 1, _after, reverse=True)
        before = (m01 + m11 * odds) / (m00 + m10 * odds)
        chunk = first + place - 1
        valid = (chain < chains) & (chunk >= 0) & (chunk < chunks)
        tl.store(entering + chain * chunks + chunk, before, valid)
        odds = tl.sum(tl.where(place == 0, before, 0.0), 1)[:, None]


@_jit
def solve(
    llr, other, message, law, entering, logs, counts, changes,
    chains, length, inner, chunks, size,
    OTHER: tl.constexpr, SPLIT: tl.constexpr, MIX: tl.constexpr, RESIDUAL: tl.constexpr,
    LOGS: tl.constexpr, COUNTS: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Write the messages of every tile.

    `law` holds `p00`, `sqrt(p01 p10)`, `p11`, `sqrt(p01 / p10)`, what is added to messages, and the
    weight of old messages. `entering [2, chains, chunks]` is read if the chains are SPLIT. Where
    asked for, `logs [chains, chunks]`, `counts [4, chains, chunks]` and `changes [programs]` get
    the tile's share of the log-evidence in nats and of the transition counts, and its largest
    change. `size` is `chains * chunks`.
    """
    SPAN: tl.constexpr = LANES * STEPS
    AXIS: tl.constexpr = 1 if ROWS else 0
    DOUBLE: tl.constexpr = message.dtype.element_ty == tl.float64
    chain, room, first, offset, chunk = _origin(chains, length, inner, chunks, ROWS, WIDTH, SPAN)
    remaining = length - first
    p00, switch, p11, end = tl.load(law), tl.load(law + 1), tl.load(law + 2), tl.load(law + 3)
    column = tl.arange(0, WIDTH)
    lane = _lanes(ROWS, LANES, WIDTH)
    entry = column[:, None] if ROWS else column[None, :]
    steps = _evidence(
        llr, other, offset, length, inner, room, remaining, OTHER, ROWS, WIDTH, LANES, STEPS
    )
    low, high = _weights(steps, DOUBLE, STEPS)
    left = tl.zeros(lane.shape, tl.float64) + end
    right = left
    if SPLIT:
        place = entering + (chain + entry) * chunks + chunk + tl.zeros_like(lane)
        left = tl.load(place, entry < room, 1.0)
        right = tl.load(place + size, entry < room, 1.0)
    if LANES > 1:
        m00, m01, m10, m11 = _lane_product(low, high, p00, switch, p11, STEPS)
        left, right = _enter_lanes(m00, m01, m10, m11, left, right, ROWS, WIDTH, LANES)

    v0, v1 = tl.full(lane.shape, 1.0, tl.float64), left
    before0 = ()
    before1 = ()
    exponents = tl.zeros(lane.shape, tl.int32)
    for s in tl.static_range(STEPS):
        before0 = before0 + (v0,)
        before1 = before1 + (v1,)
        v0, v1 = _step(low[s] * v0, high[s] * v1, p00, switch, p11)
        if s % 4 == 3:
            exponent = _exponent(v0 + v1)
            factor = _inverse_power(exponent)
            v0, v1 = v0 * factor, v1 * factor
            if LOGS:
                exponents += (exponent - 1023).to(tl.int32)
    if LOGS:
        # the factors of the lanes of a chain multiply to its evidence; the last one ends the chain
        final = (lane == LANES - 1) & (chunk == chunks - 1)
        mass = tl.where(final, (v0 + end * v1) / (1.0 + end * end), v0)
        share = tl.log(mass) + exponents.to(tl.float64) * _LN2
        for s in tl.static_range(STEPS):
            share += tl.maximum(steps[s], 0.0)
        total = tl.sum(share, AXIS)
        tl.store(logs + (chain + column) * chunks + chunk, total, column < room)

    if MIX:
        old = _read(message + offset, length, inner, room, remaining, ROWS, WIDTH, LANES, STEPS)
        kept = tl.load(law + 5).to(message.dtype.element_ty)
    shift = tl.load(law + 4).to(message.dtype.element_ty)
    change = tl.zeros(lane.shape, message.dtype.element_ty)
    n00 = tl.zeros(lane.shape, tl.float64)
    n01, n10, n11 = n00, n00, n00
    q0, q1 = tl.full(lane.shape, 1.0, tl.float64), right
    news = ()
    for s in tl.static_range(STEPS - 1, -1, -1):
        b0, b1 = _step(q0, q1, p00, switch, p11)
        new = _log_ratio(before1[s] * b1, before0[s] * b0, DOUBLE) + shift
        if MIX:
            mixed = new + kept * (old[s] - new)
            if RESIDUAL:
                there = (entry < room) & (lane * STEPS + s < remaining)
                change = tl.maximum(change, tl.where(there, tl.abs(mixed - old[s]), 0.0))
            new = mixed
        news = (new,) + news
        if COUNTS:
            w0, w1 = low[s] * before0[s], high[s] * before1[s]
            j00, j01 = p00 * w0 * q0, switch * w0 * q1
            j10, j11 = switch * w1 * q0, p11 * w1 * q1
            counted = lane * STEPS + s + 1 < remaining
            share = tl.where(counted, 1.0 / ((j00 + j01) + (j10 + j11)), 0.0)
            n00 += share * j00
            n01 += share * j01
            n10 += share * j10
            n11 += share * j11
        q0, q1 = low[s] * b0, high[s] * b1
        if s % 4 == 0:
            factor = _inverse_power(_exponent(q0 + q1))
            q0, q1 = q0 * factor, q1 * factor
    _write(message + offset, news, length, inner, room, remaining, ROWS, WIDTH, LANES, STEPS)
    if COUNTS:
        place = counts + (chain + column) * chunks + chunk
        n00, n01, n10, n11 = (
            tl.sum(n00, AXIS),
            tl.sum(n01, AXIS),
            tl.sum(n10, AXIS),
            tl.sum(n11, AXIS),
        )
        _store_four(place, size, n00, n01, n10, n11, column < room)
    if RESIDUAL:
        tl.store(changes + tl.program_id(0), tl.max(tl.max(change, 1), 0).to(tl.float64))
