from __future__ import annotations

from html.parser import HTMLParser

from pyro_turbovbi.report.markup import Markup, escaped, joined, table, tag


def test_texts_are_escaped_once_and_markup_never() -> None:
    assert tag("p", "a < b & c") == "<p>a &lt; b &amp; c</p>"
    assert tag("p", tag("b", "<i>")) == "<p><b>&lt;i&gt;</b></p>"
    assert joined("<", Markup("<br>"), 3) == "&lt;<br>3"
    assert escaped(escaped("&")) == "&amp;"


def test_attributes() -> None:
    made = tag("a", "x", href='"&', class_="c", aria_label="l", hidden=True, title=None, id=False)
    assert made == '<a href="&quot;&amp;" class="c" aria-label="l" hidden>x</a>'
    assert tag("meta", name="viewport") == '<meta name="viewport">'


def test_a_table_names_its_rows_and_scrolls_in_a_box_that_the_keyboard_reaches() -> None:
    made = table(("", "one\ntwo"), [("<row>", 1)], caption="Sizes", notes=tag("p", "n"))
    assert made.startswith('<div class="scroll" role="region" aria-label="Sizes" tabindex="0">')
    assert "<caption>Sizes</caption>" in made
    assert '<th scope="col">one<br>two</th>' in made
    assert '<th scope="row">&lt;row&gt;</th><td>1</td>' in made
    assert made.endswith("</div><p>n</p>")
    HTMLParser().feed(made)
