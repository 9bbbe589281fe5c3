from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import DOCS, run_page


def test_the_page_on_diagnostics_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A quarter of the data, and less training: the page is about what follows.
    changes = {
        "epochs=30": "epochs=4, progress=False",
        "\nnet =": "\ntrain = type(train)(train.x[:300], train.y[:300])\nnet =",
        ".khat(train)": ".khat(train, num_draws=30)",
    }
    monkeypatch.chdir(tmp_path)
    names = run_page(DOCS / "diagnostics.md", changes)
    assert names["khat"].elbo < 0.0
    # Far below the threshold, so that the ranking does not hang on the last bit of a sum.
    assert all(float(r.pareto_k.max()) < 0.55 for r in names["results"].values())
    assert names["exported"].posterior["0.weight"].sizes["0.weight_index"] == 8
    assert names["learned"].learned == ("0.weight", "2.weight")
    assert [row.elbo_group for row in names["comparison"].rows] == ["a", "b", "a", "c"]
    for picture in ("reliability", "elbo", "supports", "pareto", "side-by-side"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 0
