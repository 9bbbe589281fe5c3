from __future__ import annotations

import numpy as np
import pytest

from pyro_turbovbi.diagnostics.training_plots import MOST_LAYERS, shares_left, training_history
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.result import EpochRecord


def _history(layers: int) -> tuple[list[EpochRecord], dict[str, int]]:
    names = [f"layer {i}" for i in range(layers)]
    records = [
        EpochRecord(e, 100.0 / e, 1.0, {n: (i + 1) / (e * layers) for i, n in enumerate(names)})
        for e in (1, 2, 3)
    ]
    return records, {name: 10 * (i + 1) for i, name in enumerate(names)}


def test_shares_are_those_of_the_records_and_the_whole_is_weighted() -> None:
    records, sizes = _history(2)
    shares = shares_left(records, sizes | {"unknown": 7})
    assert shares["layer 0"] == [0.5, 0.25, 0.5 / 3]
    assert shares["all weights"] == pytest.approx([25 / 30, 12.5 / 30, 25 / 90])
    assert "unknown" not in shares
    assert shares_left([EpochRecord(1, 1.0, 1.0)], {"a": 3}) == {}


def test_the_picture_has_the_elbo_above_and_the_shares_below() -> None:
    records, sizes = _history(2)
    upper, lower = training_history(records, sizes, heading="Run").axes
    assert upper.get_title() == "Run"
    assert np.asarray(upper.lines[0].get_ydata()).tolist() == [-100.0, -50.0, -100.0 / 3]
    labels = [line.get_label() for line in lower.lines]
    assert labels == ["layer 0", "layer 1", "all weights"]
    assert np.asarray(lower.lines[0].get_ydata()).tolist() == pytest.approx([50, 25, 50 / 3])
    assert np.asarray(lower.lines[0].get_xdata()).tolist() == [1, 2, 3]
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lower.lines}
    assert len(looks) == 3


def test_many_layers_share_a_colour_and_one_entry() -> None:
    records, sizes = _history(MOST_LAYERS + 1)
    lower = training_history(records, sizes).axes[1]
    assert len(lower.lines) == MOST_LAYERS + 2
    legend = lower.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["one layer each", "all weights"]


def test_without_an_epoch_there_is_no_picture() -> None:
    with pytest.raises(InvalidArgumentError, match="there is no epoch to draw"):
        training_history([], {})
