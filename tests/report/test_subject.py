from __future__ import annotations

from torch import Tensor

import pyro_turbovbi as ptv
from pyro_turbovbi.report.network import SmallNetwork
from pyro_turbovbi.report.subject import Subject


def test_weights_are_counted_where_they_are_left(
    classifier: ptv.Fit, classes: tuple[Tensor, Tensor]
) -> None:
    masks = classifier.masks()
    subject = Subject("a", classifier)
    assert subject.total == 3 * 4 + 4 * 2
    assert subject.kept == sum(int(mask.sum()) for mask in masks.values())
    compressed = classifier.compress(classes, keep=0.4)
    small = SmallNetwork.of(compressed)
    assert Subject("a", classifier, small).kept == compressed.report.kept
    other = SmallNetwork(small.module, small.before, small.after, {"x": masks["0.weight"]}, "plain")
    assert Subject("a", classifier, other).kept == subject.kept, "of unknown layers"
