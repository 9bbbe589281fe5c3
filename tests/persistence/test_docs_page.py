"""The page on saving and resuming runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.pages import DOCS, run_page


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page(DOCS / "checkpoints.md", {"epochs=30": "epochs=1, progress=False"})
    for name, value in names["again"].posterior.mean().items():
        assert value.shape == names["best"].posterior.mean()[name].shape
    assert len(names["best"].history) == 1
    assert len(list((tmp_path / "runs" / "often").iterdir())) == 2
    assert names["turbo"].steps_done == 1
    assert torch.isfinite(names["turbo"].optimizer.param_groups[0]["params"][0]).all()
