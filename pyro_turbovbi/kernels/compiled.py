"""The chain recursion compiled for CPUs: many chains in vector lanes, blocks of chains in threads.

Consecutive chains are solved side by side, `_LANES` of them. Where they are neighbours in memory
(column chains) a step reads and writes whole cache lines; where each runs along memory (row chains)
small tiles are turned on the way in and out. Nothing is copied as a whole. All arithmetic is in
double precision, whatever the storage: in a chain that hardly ever changes state the messages add
up over the whole length, and so would single-precision rounding. A chain too long for the scratch
memory of a block goes through it in pieces, from checkpoints of the forward recursion.

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

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_turbovbi.kernels.law import SATURATION, ChainLaw, ChainSummary

Array = NDArray[Any]
KernelT = TypeVar("KernelT", bound=Callable[..., Any])

_LANES = 64
_STEPS = 248  # no power of two: the columns of a tile would fall into the same few cache sets
_GATED = 1024  # elements that are gated at a time: fits the first-level cache
_ELEMENTS_PER_THREAD = 2**16  # with fewer, starting a thread costs more than it saves
_PARTS_PER_THREAD = 4  # so that a thread on a busy core holds up the others less

_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
_INVERSE_LN2 = 1.4426950408889634
_ROUND = 6755399441055744.0  # 1.5 * 2^52: adding it leaves the nearest integer in the low bits
_ROUND_BITS = np.int64(0x4338000000000000)
_HALF_ROOT_BITS = np.int64(0x3FE6A09E667F3BCD)  # sqrt(1/2)
_EXPONENT = np.int64(52)


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


@_inline
def _add(total: Array, one: Array, other: Array, share: float) -> None:
    """`one + share * other` in double precision."""
    for i in range(total.size):
        total[i] = np.float64(one[i]) + share * np.float64(other[i])


@_inline
def _mix(message: Array, new: Array, damping: float) -> float:
    """Overwrite a message by a damped update; the largest change."""
    change = 0.0
    for i in range(message.size):
        old = np.float64(message[i])
        difference = (1.0 - damping) * (new[i] - old)
        message[i] = old + difference
        change = max(change, abs(difference))
    return change


@_inline
def _put(message: Array, new: Array) -> None:
    """Overwrite a message."""
    for i in range(message.size):
        message[i] = new[i]


@_inline
def _turn(to: Array, source: Array, n: int, w: int) -> None:
    """Transpose a tile into `to [n, w]`."""
    for t in range(n):
        for k in range(w):
            to[t, k] = source[k, t]


@_inline
def _odds(x: Array) -> None:
    """Odds of log-likelihood ratios, saturated."""
    for i in range(x.size):
        x[i] = _exp(min(max(x[i], -SATURATION), SATURATION))


@_inline
def _log_product(x: Array, y: Array, offset: float) -> None:
    """`offset + ln(x y)`, in place of `x`."""
    for i in range(x.size):
        x[i] = offset + _log(x[i] * y[i])


@_inline
def _forward(odds: Array, past: Array, message: Array, p01: float, p10: float) -> None:
    """One element forwards: note in `past` what reaches it, and pass the message on."""
    p00, p11 = 1.0 - p01, 1.0 - p10
    for k in range(odds.size):
        past[k] = message[k]
        x = message[k] * odds[k]
        message[k] = (p10 + p11 * x) / (p00 + p01 * x)


@_inline
def _backward(odds: Array, message: Array, p01: float, p10: float) -> None:
    """One element backwards: what reaches it takes the place of its odds."""
    p00, p11 = 1.0 - p01, 1.0 - p10
    for k in range(odds.size):
        here = message[k]
        x = here * odds[k]
        odds[k] = here
        message[k] = (p10 + p11 * x) / (p00 + p01 * x)


@_inline
def _add_norm(odds: Array, past: Array, total: Array, offset: float, p01: float) -> None:
    """Add the log of the forward recursion's normaliser of one element."""
    for k in range(odds.size):
        total[k] += _log(offset + p01 * (past[k] * odds[k]))


@_inline
def _add_excess(llr: Array, total: Array) -> None:
    """Add the evidence beyond saturation, which the recursion does not see."""
    for k in range(llr.size):
        total[k] += max(llr[k] - SATURATION, 0.0)


@_inline
def _add_counts(
    odds: Array, past: Array, behind: Array, tally: Array, p01: float, p10: float, counted: float
) -> None:
    """Add the expected transition out of one element and step back.

    `behind` is odds times message of the next element, and then of this one.
    """
    p00, p11 = 1.0 - p01, 1.0 - p10
    ratio = p01 / p10
    n00, n01, n10, n11 = tally[0], tally[1], tally[2], tally[3]
    for k in range(odds.size):
        first, second = past[k] * odds[k] * ratio, behind[k]
        w01, w10, w11 = second * p01, first * p10, first * second * p11
        share = counted / (w01 + w10 + w11 + p00)
        n00[k] += share * p00
        n01[k] += share * w01
        n10[k] += share * w10
        n11[k] += share * w11
        behind[k] = (p10 + p11 * second) / (p00 + p01 * second) * odds[k]


@_inline
def _read(
    odds: Array,
    spare: Array,
    llr: Array,
    other: Array,
    share: float,
    at: int,
    length: int,
    inner: int,
) -> None:
    """Fill a tile `odds [n, w]` with the summed evidence of `w` chains from offset `at`."""
    n, w = odds.shape
    if inner > 1:
        for t in range(n):
            i = at + t * inner
            _add(odds[t], llr[i : i + w], other[i : i + w], share)
        return
    for k in range(w):
        i = at + k * length
        _add(spare[k][:n], llr[i : i + n], other[i : i + n], share)
    _turn(odds, spare, n, w)


@_inline
def _write(
    message: Array,
    new: Array,
    spare: Array,
    damping: float,
    track: bool,
    at: int,
    length: int,
    inner: int,
) -> float:
    """Write a tile of new messages `[n, w]` from offset `at`; the largest change if tracked."""
    rows, (size, count), pitch = new, new.shape[::-1], inner
    if inner == 1:
        rows, (size, count), pitch = spare, new.shape, length
        _turn(spare, new, count, size)
    change = 0.0
    for k in range(count):
        i = at + k * pitch
        if track:
            change = max(change, _mix(message[i : i + size], rows[k][:size], damping))
        else:
            _put(message[i : i + size], rows[k][:size])
    return change


@_inline
def _load(
    odds: Array, spare: Array, llr: Array, other: Array, share: float, at: int, length: int,
    inner: int, total: Array, excess: bool,
) -> None:  # fmt: skip
    """Fill a tile `odds [n, w]` with the odds of the evidence; add what is beyond saturation."""
    _read(odds, spare, llr, other, share, at, length, inner)
    if excess:
        for t in range(odds.shape[0]):
            _add_excess(odds[t], total)
    _odds(odds.reshape(odds.size))


@_inline
def _count(
    odds: Array, past: Array, behind: Array, tally: Array, p01: float, p10: float, ends: bool
) -> None:
    """Add the expected transitions out of the elements of a tile, the last of the chain aside."""
    n = odds.shape[0]
    for s in range(n):
        t = n - 1 - s
        counted = 0.0 if ends and s == 0 else 1.0
        _add_counts(odds[t], past[t], behind, tally, p01, p10, counted)


@_kernel
def _solve(
    llr: Array,
    other: Array,
    share: float,
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
) -> float:
    """Update the messages of the groups `first .. last` of chains; the largest change if tracked.

    All tensors are flat views of `[outer, length, inner]`; chain `c` is
    `[c // inner, :, c % inner]`. `evidence [chains]` and `counts [chains, 4]` are filled unless
    they are empty.
    """
    width = llr.size // length if inner == 1 else inner
    per_outer = (width + _LANES - 1) // _LANES
    steps = min(length, _STEPS)
    pieces = (length + steps - 1) // steps
    pitch = (steps + 7) // 16 * 16 + 8  # an odd number of cache lines: see _STEPS
    scratch, spare = np.empty((2, steps * _LANES)), np.empty((_LANES, pitch))
    checkpoints = np.empty((pieces, _LANES))
    lanes, tallies = np.empty((3, _LANES)), np.empty((4, _LANES))
    residual = 0.0
    for group in range(first, last):
        skip = group % per_outer * _LANES
        w = min(_LANES, width - skip)
        chain = group // per_outer * width + skip
        origin = chain * length if inner == 1 else group // per_outer * length * inner + skip
        forth, back, total, tally = lanes[0, :w], lanes[1, :w], lanes[2, :w], tallies[:, :w]
        forth[:], back[:], total[:], tally[:] = 1.0, 1.0, -_log(p01 + p10), 0.0
        behind = back.copy()
        # forwards to the last piece, of which only checkpoints are kept, then backwards
        for visit in range(2 * pieces - 1):
            piece = min(visit, 2 * (pieces - 1) - visit)
            returns, ends = visit >= pieces - 1, piece == pieces - 1
            n, at = min(steps, length - piece * steps), origin + piece * steps * inner
            odds = scratch[0, : n * w].reshape((n, w))
            past = scratch[1, : n * w].reshape((n, w))
            excess = returns and evidence.size > 0
            _load(odds, spare, llr, other, share, at, length, inner, total, excess)
            if visit < pieces:
                checkpoints[piece, :w] = forth
            forth[:] = checkpoints[piece, :w]
            for t in range(n):
                _forward(odds[t], past[t], forth, p01, p10)
            if not returns:
                continue
            if evidence.size:
                for t in range(n):
                    stays = p10 if ends and t == n - 1 else 1.0 - p01
                    _add_norm(odds[t], past[t], total, stays, p01)
            if counts.size:
                _count(odds, past, behind, tally, p01, p10, ends)
            for s in range(n):
                _backward(odds[n - 1 - s], back, p01, p10)
            _log_product(past.reshape(n * w), odds.reshape(n * w), offset)
            change = _write(message, past, spare, damping, track, at, length, inner)
            residual = max(residual, change)
        if evidence.size:
            evidence[chain : chain + w] = total
        if counts.size:
            counts[chain : chain + w] = tally.T
    return residual


@_inline
def _add_elements(x: Array, total: Array, prior: float) -> None:
    """Add `softplus(prior + x)` lane by lane."""
    for k in range(x.size):
        y = prior + x[k]
        total[k] += max(y, 0.0) + _log(1.0 + _exp(max(-abs(y), -700.0)))


@_kernel
def _sum_elements(
    llr: Array, row: Array, column: Array, first: int, last: int, prior: float
) -> float:
    """Sum of `ln(1 - d + d exp(llr + row + column))` over elements, `prior = logit(d)`."""
    total, belief = np.zeros(_LANES), np.zeros(_LANES)
    for start in range(first, last, _LANES):
        stop = min(start + _LANES, last)
        x = belief[: stop - start]
        _add(x, llr[start:stop], row[start:stop], 1.0)
        _add(x, x, column[start:stop], 1.0)
        _add_elements(x, total, prior)
    absent = max(prior, 0.0) + _log(1.0 + _exp(max(-abs(prior), -700.0)))
    return float(total.sum() - (last - first) * absent)


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
    llr: Array, message: Array, gate: Array, length: int, inner: int, first: int, last: int
) -> None:
    """Gate the elements `first .. last`; flat views of `[outer, length, inner]`."""
    gates = np.empty(_GATED)
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
    local, more, target = (_flat(x) for x in (llr, llr if other is None else other, message))
    share, track = float(other is not None), residual or damping > 0

    def solve(first: int, last: int) -> float:
        return _solve(
            local, more, share, target, offset, damping, track, length, inner, first, last,
            law.p01, law.p10, evidence.numpy(), counts.numpy(),
        )  # fmt: skip

    width, outer = (chains, 1) if inner == 1 else (inner, chains // inner)
    groups = outer * -(-width // _LANES)
    changes = _in_threads(solve, groups, llr.numel())
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
        _gate_elements(evidence, target, gates, length, inner, first * _GATED, stop)
        return 0.0

    _in_threads(solve, -(-target.size // _GATED), target.size)


def element_evidence(llr: Tensor, row: Tensor, column: Tensor, prior: float) -> Tensor:
    """Log-evidence of all elements of each grid as if they were independent, `[batch]`.

    Args:
        llr: `[batch, rows, columns]`, contiguous, on the CPU, single or double.
        row: What the rows say, same layout and dtype.
        column: What the columns say, same layout and dtype.
        prior: Stationary log-odds.

    Returns:
        Sums in nats in double precision.
    """
    flat = (_flat(llr), _flat(row), _flat(column))
    size = llr[0].numel()
    # within a grid the sum does not depend on the number of threads
    sums = [_sum_elements(*flat, i * size, (i + 1) * size, prior) for i in range(len(llr))]
    return torch.tensor(sums, dtype=torch.float64)


def _flat(tensor: Tensor) -> Array:
    array: Array = tensor.view(-1).numpy()
    return array


def _in_threads(task: Callable[[int, int], float], count: int, size: int) -> list[float]:
    """Run `task(first, last)` over ranges of `count` groups, in as many threads as torch uses."""
    threads = max(1, min(torch.get_num_threads(), count, size // _ELEMENTS_PER_THREAD))
    if threads == 1:
        return [task(0, count)]
    parts = min(_PARTS_PER_THREAD * threads, count)
    bounds = [count * i // parts for i in range(parts + 1)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(task, bounds[:-1], bounds[1:]))
