"""The page on saving and resuming runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    source = "\n".join(blocks).replace("epochs=30", "epochs=1, progress=False")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(source, PAGE.name, "exec"), names)
    for name, value in names["again"].posterior.mean().items():
        assert value.shape == names["best"].posterior.mean()[name].shape
    assert len(names["best"].history) == 1
    assert len(list((tmp_path / "runs" / "often").iterdir())) == 2
    assert names["turbo"].steps_done == 1
    assert torch.isfinite(names["turbo"].optimizer.param_groups[0]["params"][0]).all()
