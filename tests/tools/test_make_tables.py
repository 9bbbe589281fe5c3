"""The documentation's tables are what the generator makes of the recorded results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.gallery.loading import ROOT, load


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return load("tools", "make_tables")


RESULT = {
    "case": "a case",
    "protocol": "Last epoch",
    "device": "a processor",
    "rows": [
        {
            "method": "chain",
            "seeds": [0, 1],
            "test_error_percent": {"median": 2.0, "min": 1.5, "max": 2.25},
            "clusters": {"median": 1234, "min": 1234, "max": 1234},
            "structure": "10-5-2",
            "epoch_cost_ratio": None,
            "support_f1": 0.99,
        },
        {"method": "adam", "seeds": [2], "test_error_percent": 1.0},
    ],
}


@pytest.mark.parametrize(
    "relative", ["README.md", "docs/benchmarks.md", "docs/gallery.md", "docs/scaling.md"]
)
def test_what_is_committed_is_what_the_generator_makes(tables: ModuleType, relative: str) -> None:
    path = ROOT / relative
    assert path.read_text() == tables.outputs(ROOT)[path], "run `make tables`"


def test_no_results_give_one_honest_row(tables: ModuleType) -> None:
    lines = tables.render_readme([]).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| not measured yet |")


def test_a_result_becomes_a_table_with_its_protocol(tables: ModuleType) -> None:
    lines = tables.render_benchmarks({"uci": RESULT}).splitlines()
    start = lines.index("### a case")
    assert lines[start - 2] == "## Priors and engines side by side"
    assert lines[start + 2 :] == [
        "| method | test error, % | structure | clusters | epoch cost / plain Adam's "
        "| support f1 |",
        "| --- | --- | --- | --- | --- | --- |",
        "| chain | 2.00 (1.50 - 2.25) | 10-5-2 | 1,234 | - | 0.99 |",
        "| adam | 1.00 | - | - | - | - |",
        "",
        '??? note "How it was measured"',
        "",
        "    Last epoch. Seeds: 0, 1, 2. Measured on: a processor.",
    ]


def test_the_readme_shows_medians_of_the_main_columns(tables: ModuleType) -> None:
    row = {"method": "chain", "bytes": 5, "clusters": {"median": 2, "min": 1, "max": 3}}
    lines = tables.render_readme([{**RESULT, "rows": [row]}]).splitlines()
    assert lines[2:5] == ["| method | clusters |", "| --- | --- |", "| chain | 2 |"]
    assert lines[6] == "Measured on: a processor.", "the protocol is on the benchmarks page"


def test_a_result_may_say_which_columns_the_readme_shows(tables: ModuleType) -> None:
    row = {"method": "chain", "bytes": 5, "clusters": 2}
    result = {**RESULT, "rows": [row], "readme": ["method", "bytes"]}
    lines = tables.render_readme([result]).splitlines()
    assert lines[2:5] == ["| method | file, bytes |", "| --- | --- |", "| chain | 5 |"]
    assert "clusters" in tables.render_benchmarks({"uci": result})
    assert "not measured yet" in tables.render_readme([{**RESULT, "readme": False}])


def test_every_results_file_has_a_section(tables: ModuleType, tmp_path: Path) -> None:
    for name in ("scaling", "uci", "frontier_b", "frontier_a"):
        (tmp_path / f"{name}.json").write_text(json.dumps(RESULT))
    assert list(tables.load_results(tmp_path)) == ["frontier_a", "frontier_b", "uci", "scaling"]
    (tmp_path / "other.json").write_text(json.dumps(RESULT))
    with pytest.raises(ValueError, match=r"other\.json belongs to no section"):
        tables.load_results(tmp_path)


def test_a_file_without_a_protocol_is_refused(tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "uci.json").write_text(json.dumps({"case": "a", "device": "b", "rows": []}))
    with pytest.raises(ValueError, match=r"uci\.json has no protocol"):
        tables.load_results(tmp_path)


def test_the_gallery_shows_the_first_paragraph_of_every_file(
    tables: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "net.py").write_text('"""A net\nwith q(w | s).\n\nMore."""\n')
    text = tables.render_gallery(tmp_path)
    assert "|  | `models/net.py`<br>A net with q(w \\| s). |" in text
    assert "|  | none yet |" in text, "guides"


def test_the_gallery_shows_pictures_with_their_captions(tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "my_net.py").write_text('"""A net."""\n')
    (tmp_path / "models" / "plain.py").write_text('"""Without a picture."""\n')
    folder = tmp_path / "docs" / "images" / "gallery"
    folder.mkdir(parents=True)
    (folder / "captions.json").write_text(json.dumps({"my_net": "2 of 3 weights left."}))
    text = tables.render_gallery(tmp_path)
    picture = "![my_net](images/gallery/my_net.png)"
    assert f"### `models/my_net.py`\n\n{picture}\n\n2 of 3 weights left.\n" in text
    small = f"[{picture}{{ width=150 }}](#modelsmy_netpy)"
    assert f"| {small} | `models/my_net.py`<br>A net. |" in text
    assert text.count("![") == 2


def test_every_row_of_the_gallery_leads_to_a_picture(tables: ModuleType) -> None:
    """The anchors are those that the documentation's own Markdown gives to the headings."""
    from markdown.extensions.toc import slugify

    page = tables.render_gallery(ROOT)
    headings = re.findall(r"^### `(.*)`$", page, re.MULTILINE)
    links = re.findall(r"width=150 }\]\(#(.*?)\)", page)
    assert links == [slugify(heading, "-") for heading in headings]
    assert len(links) == len(list((ROOT / "docs" / "images" / "gallery").glob("*.png")))


def test_check_fails_and_writes_nothing_when_out_of_date(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    (tmp_path / "README.md").write_text(readme)
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert tables.main(["--check"]) == 1
    assert (tmp_path / "README.md").read_text() == readme
    assert tables.main([]) == 0
    assert "not measured yet" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "README.md").read_text().startswith("before\n")
    assert (tmp_path / "README.md").read_text().endswith("\nafter\n")
    assert tables.main(["--check"]) == 0


def test_a_readme_without_the_block_is_refused(tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no markers")
    with pytest.raises(ValueError, match="needs a block"):
        tables.outputs(tmp_path)
