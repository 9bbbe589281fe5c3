"""The page as a whole."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from typing import Any

from torch import Tensor

from pyro_turbovbi.compression import Compressed
from pyro_turbovbi.diagnostics.comparison import compare
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.persistence.files import write_atomically
from pyro_turbovbi.report.figures import require_matplotlib
from pyro_turbovbi.report.findings import find
from pyro_turbovbi.report.markup import Markup, joined, tag
from pyro_turbovbi.report.network import SmallNetwork
from pyro_turbovbi.report.sections import SECTIONS, head
from pyro_turbovbi.report.subject import Subject
from pyro_turbovbi.result import NUM_SAMPLES, Fit

# The page may load nothing and run nothing, whoever's names stand in it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Report:
    """One HTML page that needs nothing besides itself: no network, no script, no further file.

    Attributes:
        html: The page.
    """

    html: str

    def save(self, path: str | os.PathLike[str]) -> int:
        """Writes the page to a file, all or nothing.

        Args:
            path: Where to write.

        Returns:
            The number of bytes.

        Raises:
            StorageError: If it cannot be written.
        """
        content = self.html.encode()
        write_atomically(path, content)
        return len(content)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, for notebooks."""
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" sandbox title="Report" '
            'style="width: 100%; height: 80vh; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return f"Report({len(self.html.encode()):,} bytes of HTML)"


def make_report(
    fit: Fit,
    test: Any | None = None,
    *,
    name: str = "fit",
    compressed: Compressed | SmallNetwork | None = None,
    others: Mapping[str, Fit] | None = None,
    stages: Mapping[str, Mapping[str, Tensor]] | None = None,
    recipe: str | None = None,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
) -> Report:
    """Writes a page about a fit that a reader who does not know the method understands.

    What is missing (test data, a small network) the page says in a sentence.

    Args:
        fit: The fit.
        test: Data to measure errors and calibration on, such that the fit has not seen.
        name: What the page calls the fit.
        compressed: The small network that was made of the fit.
        others: Fits of the same data to compare it with, by name.
        stages: Supports during training, as `callbacks.Supports` keeps them: probabilities by name
            of the stage and of the site.
        recipe: The recipe of the training, as text.
        num_samples: Posterior draws that predictions average over.
        seed: Seed of these draws; the global random state is left as it was.

    Returns:
        The page.

    Raises:
        UnsupportedError: If matplotlib is not installed.
        InvalidArgumentError: If another fit has the same name, or cannot be compared with this one.
        InvalidDataError: If the test data are empty.
    """
    require_matplotlib()
    if others and name in others:
        raise InvalidArgumentError(
            "two fits have the same name", given=name, accepted="a name= that no other fit has"
        )
    small = SmallNetwork.of(compressed) if isinstance(compressed, Compressed) else compressed
    module = None if small is None else small.module
    found = comparison = None
    if test is not None:
        found = find(fit, test, module, num_samples=num_samples, seed=seed)
        if others:
            everyone = {name: fit, **others}
            comparison = compare(everyone, test, num_samples=num_samples, seed=seed)
    subject = Subject(
        name, fit, small, found, comparison, stages or {}, recipe, num_samples, seed, bool(others)
    )
    return Report(_page(subject))


def _page(subject: Subject) -> str:
    sections = {title: build(subject) for title, build in SECTIONS.items()}
    shown = {title: content for title, content in sections.items() if content}
    links = [tag("li", tag("a", title, href=f"#{_anchor(title)}")) for title in shown]
    body = tag(
        "body",
        tag("header", head(subject), tag("nav", tag("ul", *links), aria_label="Sections")),
        tag("main", *(_section(title, content) for title, content in shown.items())),
        tag("footer", f"Written by pyro_turbovbi on {date.today():%Y-%m-%d}."),
    )
    return f"<!doctype html>\n{tag('html', _head(subject.name), body, lang='en')}\n"


def _head(name: str) -> Markup:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name}: report"),
        tag("style", Markup(files(__package__).joinpath("page.css").read_text(encoding="utf-8"))),
    )


def _section(title: str, content: Markup) -> Markup:
    anchor = _anchor(title)
    heading = tag("h2", title, id=anchor)
    return tag("section", joined(heading, content), aria_labelledby=anchor)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


__all__ = ["Report", "make_report"]
