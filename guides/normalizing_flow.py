"""A posterior of any shape by an inverse autoregressive flow over all weights together.

For continuous priors on nets of some hundred weights: the flow's own network has 2 * hidden numbers
a weight and more. It starts close to the identity, around the net's own weights, and can bend, skew
and correlate them (Kingma and others, "Improved variational inference with inverse autoregressive
flow", 2016).
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.transforms import AffineAutoregressive, AffineTransform
from pyro.infer.autoguide import init_to_value
from pyro.infer.autoguide.guides import AutoContinuous
from pyro.nn import AutoRegressiveNN
from torch import nn

import pyro_turbovbi as ptv


class FlowGuide(AutoContinuous):
    """Standard normals through a flow, then shifted to the start weights and scaled.

    Args:
        model: The lifted net.
        hidden: Units of the flow's network; None: half as many again as there are weights.
        init_loc_fn: See `AutoContinuous`.
        init_scale: Start of the posterior scales.
    """

    def __init__(
        self, model: ptv.BayesianNet, *, hidden: int | None, init_loc_fn: Any, init_scale: float
    ) -> None:
        super().__init__(model, init_loc_fn=init_loc_fn)  # type: ignore[no-untyped-call]
        self._hidden, self._init_scale = hidden, init_scale

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)  # type: ignore[no-untyped-call]
        size = self.latent_dim
        self.loc = nn.Parameter(self._init_loc())  # type: ignore[no-untyped-call]
        self.log_scale = nn.Parameter(torch.full_like(self.loc, self._init_scale).log())
        self.network = AutoRegressiveNN(size, [self._hidden or size + size // 2]).to(self.loc)
        with torch.no_grad():
            for parameter in self.network.layers[-1].parameters():
                parameter.mul_(0.01)

    def get_base_dist(self) -> dist.Distribution:
        """Standard normals, one a weight."""
        return dist.Normal(torch.zeros_like(self.loc), 1.0).to_event(1)  # type: ignore[no-any-return]

    def get_transform(self, *args: Any, **kwargs: Any) -> list[dist.transforms.Transform]:
        """Made anew: a transform remembers its last value, which copies of the guide must not."""
        flow = AffineAutoregressive(self.network)
        # Cached, since inverting the flow takes a pass through its network for every weight.
        shift = AffineTransform(self.loc, self.log_scale.exp(), event_dim=1, cache_size=1)
        return [flow, shift]


def build(model: ptv.BayesianNet, hidden: int | None = None) -> FlowGuide:
    """The guide of a lifted net.

    Args:
        model: The lifted net.
        hidden: Units of the flow's network; None: half as many again as there are weights.
    """
    start = {name: site.init for name, site in model.sites.items()}
    initial = init_to_value(values=start)
    return FlowGuide(model, hidden=hidden, init_loc_fn=initial, init_scale=0.02)
