"""The horseshoe's scales and weights hand in hand, by Pyro's `AutoStructured`.

For `priors.Horseshoe`: log-normal scales and normal weights, but unlike under a mean-field guide
every scale leans on the one that all share, and every weight on its own scale. One slope a
dependency: memory is six numbers a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer.autoguide import AutoStructured, init_to_value
from torch import Tensor, nn

import pyro_turbovbi as ptv


class Slope(nn.Module):
    """How far values move, element by element, with those that they depend on.

    Args:
        elements: Number of values.
    """

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(elements))

    def forward(self, upstream: Tensor) -> Tensor:
        """Unconstrained deviations [elements], or [1] for all of them, to shifts [elements]."""
        return self.slope * upstream


def build(model: ptv.BayesianNet) -> AutoStructured:
    """The guide of a lifted net whose weights are all under `priors.Horseshoe`."""
    start: dict[str, Tensor] = {}
    dependencies: dict[str, dict[str, str | Callable[..., Any]]] = {}
    for name, site in model.sites.items():
        assert site.init is not None, "a lifted net knows where its weights start"
        start |= site.prior.start(name, site.init)
        elements, like = site.shape.numel(), site.init
        dependencies[f"{name}_local"] = {f"{name}_global": Slope(elements).to(like)}
        dependencies[f"{name}_raw"] = {f"{name}_local": Slope(elements).to(like)}
    return AutoStructured(
        model,
        conditionals=dict.fromkeys(start, "normal"),
        dependencies=dependencies,
        init_loc_fn=init_to_value(values=start),
        init_scale=0.02,
    )
