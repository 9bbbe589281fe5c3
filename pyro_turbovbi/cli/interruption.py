"""Ctrl-C: one line that says what is kept and how to go on, in place of a traceback.

Imports next to nothing, as Ctrl-C may come while everything else is being imported.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""Exit code after Ctrl-C, by the custom of shells: 128 and the number of the signal."""
NOTHING_WRITTEN = "nothing was written; to start anew, give the same command again"


class Interrupted(KeyboardInterrupt):
    """Ctrl-C at a place that knows what is kept; the message says it."""


@contextmanager
def on_interrupt(words: Callable[[], str]) -> Iterator[None]:
    """Has a Ctrl-C inside explained by other words than `NOTHING_WRITTEN`.

    Args:
        words: Gives, when it is called after Ctrl-C, what is kept and how to go on.

    Raises:
        Interrupted: After Ctrl-C; the innermost words count.
    """
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt as interrupt:
        raise Interrupted(words()) from interrupt


@contextmanager
def noticed() -> Iterator[Callable[[], bool]]:
    """Notices a Ctrl-C inside even if its exception is lost on the way.

    Compiled modules swallow it: torch does while it imports NumPy, and fails later for a reason
    that tells nobody anything.

    Yields:
        Says whether there was one.
    """
    came = False

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.default_int_handler(number, frame)

    in_use = signal.getsignal(signal.SIGINT)
    ours = in_use is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    signal.signal(signal.SIGINT, notice)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, in_use)


def tell(interrupt: KeyboardInterrupt) -> int:
    """Says on the error stream what an interruption left.

    Returns:
        The exit code.
    """
    words = str(interrupt) if isinstance(interrupt, Interrupted) else NOTHING_WRITTEN
    print(f"interrupted; {words}", file=sys.stderr)
    return INTERRUPTED


__all__ = ["INTERRUPTED", "NOTHING_WRITTEN", "Interrupted", "noticed", "on_interrupt", "tell"]
