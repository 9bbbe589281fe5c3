"""Threads for kernels that let go of the interpreter's lock.

They start with the first large call and stay, one fewer than torch uses; a forked process starts
its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

_ELEMENTS_PER_THREAD = 2**16  # with fewer, waking a thread costs more than it saves
_PARTS_PER_THREAD = 8
_MOST_HELPERS = 256


@functools.cache
def _helpers() -> ThreadPoolExecutor:
    """The threads beside the calling one; they start when there is no idle one, and stay."""
    if hasattr(os, "register_at_fork"):  # a forked process has none of them
        os.register_at_fork(after_in_child=_helpers.cache_clear)
    return ThreadPoolExecutor(_MOST_HELPERS, thread_name_prefix="pyro_turbovbi")


def in_threads(task: Callable[[int, int], float], count: int, size: int) -> list[float]:
    """Run `task(first, last)` over ranges of `count` groups, in as many threads as torch uses.

    The calling thread is one of them. Whoever is free takes the next range, so that a thread on a
    busy core does not hold up the others; one that has not begun when all is done is not awaited.

    Args:
        task: Must let go of the interpreter's lock.
        count: How many groups there are.
        size: How many elements they hold: few are not worth a thread.

    Returns:
        What the calls returned, in no particular order.
    """
    threads = max(1, min(torch.get_num_threads(), count, size // _ELEMENTS_PER_THREAD))
    if threads == 1:
        return [task(0, count)]
    parts = min(_PARTS_PER_THREAD * threads, count)
    ranges = iter([(count * i // parts, count * (i + 1) // parts) for i in range(parts)])

    def work() -> list[float]:
        return [task(*bounds) for bounds in ranges]

    helpers: list[Future[list[float]]] = []
    # without helpers, as at the exit of the interpreter, the calling thread does it all
    with contextlib.suppress(RuntimeError):
        for _ in range(threads - 1):
            helpers.append(_helpers().submit(work))
    results = work()
    for helper in helpers:
        if not helper.cancel():
            results += helper.result()
    return results
