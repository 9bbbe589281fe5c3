"""A stream that passes for a terminal."""

from __future__ import annotations

import io


class Terminal(io.StringIO):
    """What is shown to a terminal."""

    def isatty(self) -> bool:
        return True
