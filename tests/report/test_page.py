from __future__ import annotations

import html
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pyro_turbovbi as ptv
from pyro_turbovbi.errors import InvalidArgumentError, StorageError, UnsupportedError
from pyro_turbovbi.report import Report, make_report

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Follows the elements: all are closed, ids and what they are referred to by agree."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found.append((tag, given))
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [
            value[1:]
            for name, value in attrs
            if name.endswith("href") and value and value[0] == "#"
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert len(set(checker.ids)) == len(checker.ids), "ids are unique"
    assert set(checker.links) <= set(checker.ids)
    return checker


@pytest.fixture(scope="module")
def page(classifier: ptv.Fit, classes: tuple[Tensor, Tensor]) -> str:
    return classifier.report(
        classes,
        name="<script>alert(1)</script>",
        compressed=classifier.compress(classes, keep=0.5),
        others={"other": classifier},
        stages={"epoch 1": {"0.weight": torch.rand(4, 3)}},
    ).html


def test_the_page_is_sound_and_whole(page: str) -> None:
    found = checked(page).found
    assert page.startswith('<!doctype html>\n<html lang="en">')
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page)
    assert headings == [
        "Size and speed",
        "Layers",
        "Training",
        "Confidence",
        "Weights",
        "Other runs",
        "Recipe and environment",
    ]
    assert sum(tag == "h1" for tag, _ in found) == sum(tag == "main" for tag, _ in found) == 1


def test_the_page_needs_nothing_and_runs_nothing(page: str) -> None:
    found = checked(page).found
    assert {tag for tag, _ in found}.isdisjoint({"script", "link", "iframe", "object", "base"})
    addresses = {
        value
        for _, given in found
        for name, value in given.items()
        if name in ("src", "href", "xlink:href", "srcset", "action") and value
    }
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src 'none'" in html.unescape(page)


def test_pictures_have_words(page: str) -> None:
    found = checked(page).found
    images = [given for tag, given in found if tag == "img"]
    drawings = [given for tag, given in found if tag == "svg"]
    assert images
    assert drawings
    assert all(given.get("alt") for given in images)
    assert all(given.get("role") == "img" and given.get("aria-label") for given in drawings)
    figures = sum(tag == "figure" for tag, _ in found)
    assert figures == sum(tag == "figcaption" for tag, _ in found) == len(images) + len(drawings)


def test_what_is_missing_is_said(regression: ptv.Fit) -> None:
    made = make_report(regression, others={"x": regression}).html
    checked(made)
    for words in ("no small network yet", "No test data were given", "cannot be compared"):
        assert words in made
    assert "Other runs" not in make_report(regression).html


@pytest.mark.slow
def test_the_caller_is_left_as_it_was(regression: ptv.Fit, numbers: tuple[Tensor, Tensor]) -> None:
    import matplotlib

    state, settings = torch.get_rng_state(), dict(matplotlib.rcParams)
    first = make_report(regression, numbers, num_samples=4).html
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(matplotlib.rcParams) == settings
    assert make_report(regression, numbers, num_samples=4).html == first, "it can be repeated"


def test_saving_and_showing(tmp_path: Path) -> None:
    report = Report('<p>é & "</p>')
    size = report.save(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == report.html.encode()
    assert size == len(report.html.encode())
    assert repr(report) == f"Report({size} bytes of HTML)"
    (frame,) = checked(report._repr_html_()).found
    assert frame[1]["srcdoc"] == report.html
    assert "sandbox" in frame[1]
    with pytest.raises(StorageError):
        report.save(tmp_path / "no" / "a.html")


def test_wrong_input(classifier: ptv.Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgumentError, match="two fits have the same name; given: a"):
        make_report(classifier, name="a", others={"a": classifier})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match="matplotlib"):
        classifier.report()
    assert "matplotlib" in sys.modules
