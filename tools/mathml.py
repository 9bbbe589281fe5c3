"""MkDocs hook: typesets formulas as MathML while the site is built.

Browsers show MathML by themselves, so the pages need no script and no network.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """Replace the formulas that arithmatex marked in a page's HTML.

    Args:
        content: HTML of the page's content.

    Returns:
        The same with every formula as a `math` element.
    """
    content = _INLINE.sub(lambda found: _mathml(found[1], "inline"), content)
    return _DISPLAY.sub(lambda found: _mathml(found[1], "block"), content)


def _mathml(latex: str, display: str) -> str:
    # Small fractions are a matter of TeX's line height; MathML sizes them itself.
    return convert(html.unescape(latex).strip().replace(r"\tfrac", r"\frac"), display=display)
