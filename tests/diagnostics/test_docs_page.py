from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "diagnostics.md"


def test_the_page_on_diagnostics_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    source = "\n".join(blocks).replace("epochs=30", "epochs=4, progress=False")
    # A quarter of the data, and less training: the page is about what follows.
    shorter = "train = type(train)(train.x[:300], train.y[:300])\nnet ="
    source = source.replace("net =", shorter, 1)
    source = source.replace(".khat(train)", ".khat(train, num_draws=30)")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(source, "diagnostics.md", "exec"), names)
    assert names["khat"].elbo < 0.0
    # Far below the threshold, so that the ranking does not hang on the last bit of a sum.
    assert all(float(r.pareto_k.max()) < 0.55 for r in names["results"].values())
    assert names["exported"].posterior["0.weight"].sizes["0.weight_index"] == 8
    assert names["learned"].learned == ("0.weight", "2.weight")
    assert [row.elbo_group for row in names["comparison"].rows] == ["a", "b", "a", "c"]
    for picture in ("reliability", "elbo", "supports", "pareto", "side-by-side"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 0
