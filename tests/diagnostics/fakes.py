"""Fits that are not fitted: known predictions and known networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression import Compressed, compress
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.likelihoods import Categorical, Likelihood
from pyro_turbovbi.posterior import Prediction


@dataclass
class FakeFit:
    """A fit whose posterior is the network itself, plus noise on its outputs where asked for."""

    net: nn.Module
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    likelihood: Likelihood = field(default_factory=Categorical)
    prior: object = "Normal(1)"
    engine_name: str = "fake"
    seconds: float = 1.5
    elbo: float | None = -12.5
    elbo_kind: str = "bound"
    noise: float = 0.0
    can_be_cut: bool = True

    @property
    def bnn(self) -> Any:
        return SimpleNamespace(
            likelihood=self.likelihood, sites={"0.weight": SimpleNamespace(prior=self.prior)}
        )

    def predict(self, x: Any, num_samples: int = 32) -> Prediction:
        with torch.no_grad():
            output = self.net(**x) if isinstance(x, dict) else self.net(x)
        draws = output.expand(num_samples, *output.shape)
        return Prediction(draws + self.noise * torch.randn_like(draws), self.likelihood)

    def compress(self, data: Any, /) -> Compressed:
        if not self.can_be_cut:
            raise UnsupportedError("attention cannot be cut", accepted="chains of layers")
        return compress(self.net, self.masks, data[0], measure_latency=False)
