from __future__ import annotations

from pyro_turbovbi.diagnostics.table import Table


def test_text_is_aligned_with_two_line_headers() -> None:
    table = Table(["name", "weights\nleft %"], [["a", "1.0"], ["long name", "100.0"]], ["a note"])
    assert table.to_text() == "\n".join(
        [
            "           weights",
            "name        left %",
            "------------------",
            "a              1.0",
            "long name    100.0",
            "a note",
        ]
    )


def test_no_line_ends_in_spaces() -> None:
    text = Table(["", "x"], [["row", ""], ["other", "1"]]).to_text()
    assert all(line == line.rstrip() for line in text.splitlines())


def test_html_escapes_every_text() -> None:
    html = Table(["<b>", "x\ny"], [["a & b", "<i>"]], ["1 < 2"]).to_html()
    assert html == (
        "<table><thead><tr><th>&lt;b&gt;</th><th>x<br>y</th></tr></thead>"
        "<tbody><tr><td>a &amp; b</td><td>&lt;i&gt;</td></tr></tbody></table><p>1 &lt; 2</p>"
    )


def test_a_narrow_table_goes_on_below() -> None:
    table = Table(["", "first", "second", "third"], [["a", "1", "2", "3"]], ["one, two, three"])
    assert table.to_text(width=16) == "\n".join(
        [
            "   first  second",
            "----------------",
            "a      1       2",
            "",
            "   third",
            "--------",
            "a      3",
            "one, two, three",
        ]
    )
    assert table.to_text(width=23) == table.to_text(), "it fits"
    assert table.to_text(width=22) != table.to_text()
    narrow = table.to_text(width=8).splitlines()
    assert narrow[3:7] == ["", "   second", "---------", "a       2"], "no column is broken"
    assert narrow[-3:] == ["one,", "two,", "three"]
