"""Figures inside a page: vector graphics whose ink follows the page's colours, and supports.

Colours of the curves are those of Okabe and Ito; black, white and greys become the page's own, so
that one figure can be read on a light and on a dark ground.
"""

from __future__ import annotations

import base64
import importlib.util
import re
import zlib
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.report.markup import Markup, joined, tag

if TYPE_CHECKING:
    import matplotlib.figure

WIDTH = 4.2
"""Width of a figure in inches: its letters can be read on a phone."""
_VARIABLES = {
    "#ffffff": "var(--paper)",
    "#000000": "var(--ink)",
    "#777777": "var(--quiet)",
    "#999999": "var(--quiet)",
    "#e4e4e4": "var(--line)",
    "#dddddd": "var(--line)",
    "#0072b2": "var(--blue)",
}
_UNDATED: dict[str, Any] = {"Date": None}
_UNSIGNED: dict[str, Any] = {"Software": None}
_KEPT = (0, 114, 178)
_MOST_PIXELS = 240
_SMOOTH_ABOVE = 120
"""Pictures with more rows or columns are drawn smaller than they are on a phone: smoothly."""
_WIDEST, _TALLEST = 4.0, 0.6


def require_matplotlib() -> None:
    """Refuses to start where figures cannot be drawn.

    Raises:
        UnsupportedError: If matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UnsupportedError(
            "a report needs a package that is not installed",
            given="matplotlib",
            accepted='an installation with the extra "demo": pip install "pyro-turbovbi[demo]"',
        )


def picture(
    figure: matplotlib.figure.Figure, *, alt: str, caption: object, height: float | None = None
) -> Markup:
    """A figure as a piece of the page.

    Args:
        figure: The figure; it is made narrower.
        alt: What it shows, for those who do not see it.
        caption: How to read it.
        height: Its height in inches; None scales it with the width.
    """
    width, now = figure.get_size_inches()
    figure.set_size_inches(WIDTH, height or now * (WIDTH / width) ** 0.5)
    for axes in figure.axes:
        axes.title.set_fontsize(11)
    return tag("figure", svg(figure, alt=alt), tag("figcaption", caption), class_="chart")


def svg(figure: matplotlib.figure.Figure, *, alt: str) -> Markup:
    """A figure as an inline `<svg>` with text that can be selected.

    Args:
        figure: The figure.
        alt: What it shows.
    """
    import matplotlib

    buffer = StringIO()
    # The salt makes equal figures of different places in the page differ in no id: see `_own_ids`.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", metadata=_UNDATED)
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", drawn, flags=re.S)
    drawn = re.sub(r"#[0-9a-f]{6}\b", lambda m: _VARIABLES.get(m[0], m[0]), drawn)
    drawn = re.sub(r"\n\s*", "\n", _own_ids(drawn, alt))
    box = re.search(r'viewBox="([^"]*)"', drawn)
    assert box is not None, "matplotlib writes a view box"
    body = drawn[drawn.index(">") + 1 :].removesuffix("\n").removesuffix("</svg>")
    return Markup(
        f'<svg viewBox="{box[1]}" xmlns:xlink="http://www.w3.org/1999/xlink" {_label(alt)}>'
        f"{body}</svg>"
    )


def support(values: Tensor, *, name: str, label: str) -> Markup:
    """A support as a picture: every weight a point, dark where it is kept.

    Where the matrix has more points than the picture, neighbours share one, the darker the more of
    them are kept, so that no kept weight goes unseen.

    Args:
        values: Probabilities or a mask; viewed as the matrix (out, everything else).
        name: Name of the layer.
        label: Name of the stage, such as `"after training"`.
    """
    matrix = values.detach().float().cpu()
    matrix = matrix.reshape(1, -1) if matrix.dim() < 2 else matrix.flatten(1)
    rows, columns = matrix.shape
    share = float((matrix > 0.5).double().mean()) if matrix.numel() else 0.0
    left = f"{rows} x {columns}, {100 * share:.3g} % kept"
    ratio = min(_WIDEST, max(_TALLEST, columns / max(rows, 1)))
    image = tag(
        "img",
        src=_png(matrix),
        alt=f"Weights of {name}, {label}: {left}",
        class_="smooth" if max(rows, columns) > _SMOOTH_ABOVE else "sharp",
        style=f"aspect-ratio: {ratio:.3g}",
    )
    return tag(
        "figure", image, tag("figcaption", joined(tag("b", label), tag("br"), left)), class_="layer"
    )


def plain(text: str) -> str:
    """A name as matplotlib shows it: dollars do not start a formula."""
    return text.replace("$", r"\$")


def _png(matrix: Tensor) -> str:
    """A picture as a URL: one hue, opaque where kept, so that either ground shows through."""
    from matplotlib.image import imsave

    rows, columns = matrix.shape
    size = (min(rows, _MOST_PIXELS), min(columns, _MOST_PIXELS))
    if size != (rows, columns):
        matrix = functional.adaptive_avg_pool2d(matrix[None, None], size)[0, 0]
        matrix = matrix.sqrt()  # one weight among many would be too pale to see
    pixels = torch.zeros(*size, 4, dtype=torch.uint8)
    pixels[..., :3] = torch.tensor(_KEPT, dtype=torch.uint8)
    pixels[..., 3] = (255 * matrix.clamp(0.0, 1.0)).round().to(torch.uint8)
    buffer = BytesIO()
    imsave(buffer, pixels.numpy(), format="png", metadata=_UNSIGNED)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _own_ids(drawn: str, alt: str) -> str:
    """Ids that no other figure of the page has; those that nothing refers to go."""
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', drawn))
    prefix = f"f{zlib.crc32(alt.encode()):08x}-"
    drawn = re.sub(
        r' id="([^"]*)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in used else "", drawn
    )
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", drawn)


def _label(alt: str) -> str:
    opening = tag("svg", role="img", aria_label=alt)
    return opening.removeprefix("<svg ").removesuffix("></svg>")


__all__ = ["WIDTH", "picture", "plain", "require_matplotlib", "support", "svg"]
