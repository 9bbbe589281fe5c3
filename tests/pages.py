"""The documentation's pages as programs: what is written there is what runs."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return [text for kind, text in all_blocks(page) if kind == language]


def all_blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block, in order."""
    found = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [(kind, text) for kind, text in found]


def run_page(page: Path, changes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs the Python of a page from top to bottom, in one namespace.

    Args:
        page: The page.
        changes: Text to put in place of other text, such as a smaller number of epochs; each has
            to apply, so that none outlives what it is for.

    Returns:
        The names that are defined in the end.
    """
    return run_source("\n".join(blocks(page, "python")), page.name, changes)


def run_source(source: str, name: str, changes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs a program of the page of that name; see `run_page`."""
    for old, new in (changes or {}).items():
        assert old in source, f"{name} does not say {old!r} any more"
        source = source.replace(old, new)
    names: dict[str, Any] = {"__name__": name.split(".")[0].replace("-", "_")}
    exec(compile(source, name, "exec"), names)
    return names


def outputs(page: Path) -> list[tuple[str, str]]:
    """Runs a page as it is; what every block printed, and the output that is shown after it.

    An output is shown as a block of `text` before the next block of Python.
    """
    names: dict[str, Any] = {"__name__": page.stem.replace("-", "_")}
    found: list[tuple[str, str]] = []
    printed = ""
    for kind, text in all_blocks(page):
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                exec(compile(text, page.name, "exec"), names)
            printed = stream.getvalue()
        elif kind == "text":
            found.append((printed, text))
    return found


def without_numbers(text: str) -> str:
    """The words of an output: numbers, which differ among machines, and spaces do not count."""
    return " ".join(re.sub(r"-?\d[\d,]*(\.\d+)?", "#", text).split())
