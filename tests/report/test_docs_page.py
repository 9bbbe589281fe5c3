from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "report.md"


@pytest.mark.slow
def test_the_page_on_the_report_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    source = "\n".join(blocks).replace("epochs=30", "epochs=2, progress=False")
    source = source.replace("Supports([5, 15])", "Supports([1, 2])")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(source, "report.md", "exec"), names)
    page = (tmp_path / "report.html").read_text()
    assert page == names["report"].html
    assert "epoch 1" in page
    for picture in ("history", "weights", "costs", "pareto", "networks"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 0
