from __future__ import annotations

import base64
import importlib.util
import re
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from pyro_turbovbi.diagnostics import plots
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.report import figures


def _figure() -> Figure:
    return plots.elbo_curves({figures.plain("a $x$ & <b>"): [-3.0, -2.0, -1.0]})


def _alpha(picture: str) -> np.ndarray:  # type: ignore[type-arg]
    encoded = re.search(r"data:image/png;base64,([^\"]*)", picture)
    assert encoded is not None
    pixels = imread(BytesIO(base64.b64decode(encoded[1])), format="png")
    return np.asarray(pixels[..., 3])


def test_a_figure_is_well_formed_and_takes_the_colours_of_the_page() -> None:
    made = figures.svg(_figure(), alt='ELBO "rises" & <more>')
    root = ElementTree.fromstring(made)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'ELBO "rises" & <more>'
    assert "width" not in root.attrib
    texts = {"".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")}
    assert {"epoch", "ELBO (nats)", "a $x$ & <b>"} <= texts
    assert "var(--paper)" in made
    assert not re.search("#(ffffff|000000)", made)
    assert "<style" not in made


def test_ids_of_several_figures_do_not_meet() -> None:
    first, second = (figures.svg(_figure(), alt=alt) for alt in ("one", "two"))
    ids = [set(re.findall(r' id="([^"]*)"', made)) for made in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for made, own in zip((first, second), ids, strict=True):
        used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', made))
        assert used == own
    assert figures.svg(_figure(), alt="one") == first, "equal figures are equal bytes"


def test_a_picture_has_a_caption() -> None:
    made = figures.picture(_figure(), alt="a", caption="How to <read>", height=3.0)
    assert made.endswith("<figcaption>How to &lt;read&gt;</figcaption></figure>")
    assert f'viewBox="0 0 {72 * figures.WIDTH:g} 216"' in made


def test_every_weight_of_a_support_is_a_pixel() -> None:
    mask = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    made = figures.support(mask, name="<w>", label="after")
    assert np.array_equal(_alpha(made) > 0.5, mask.numpy())
    share = 100 * mask.double().mean().item()
    assert f'alt="Weights of &lt;w&gt;, after: 7 x 5, {share:.3g} % kept"' in made
    assert 'class="sharp"' in made


def test_probabilities_are_shades_and_kernels_matrices() -> None:
    made = figures.support(torch.full((2, 3, 2, 2), 0.25), name="w", label="x")
    assert _alpha(made).shape == (2, 12)
    assert _alpha(made) == pytest.approx(0.25, abs=1 / 255)
    assert _alpha(figures.support(torch.ones(6), name="w", label="x")).shape == (1, 6)


def test_no_kept_weight_of_a_large_support_goes_unseen() -> None:
    mask = torch.zeros(1000, 2000)
    mask[501, 1333] = 1.0
    alpha = _alpha(figures.support(mask, name="w", label="x"))
    assert max(alpha.shape) <= 240
    assert alpha.max() > 0.1
    # Neighbouring averages may overlap, so that a weight can be in a few of them.
    assert 1 <= (alpha > 0).sum() <= 4


def test_without_matplotlib_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r'matplotlib; accepted: .*"pyro-turbovbi\[demo\]"'):
        figures.require_matplotlib()
