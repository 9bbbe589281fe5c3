"""The tutorials: every one runs as it is, and prints what it shows."""

from __future__ import annotations

from pathlib import Path

import pyro
import pytest

from tests.pages import DOCS, outputs, without_numbers

TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))


def test_the_first_page_leads_to_every_tutorial() -> None:
    first = (DOCS / "index.md").read_text(encoding="utf-8")
    assert not [page.name for page in TUTORIALS if f"](tutorials/{page.name})" not in first]


# All epochs, since the pages check what they promise: too long for the fast tests.
@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_tutorial_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = outputs(page)
    pyro.clear_param_store()  # one page begins with a script of stock Pyro
    assert shown
    for printed, text in shown:
        assert without_numbers(text) == without_numbers(printed)
