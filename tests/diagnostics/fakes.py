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
from pyro_turbovbi.priors import Normal, Prior
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.training import Training


@dataclass
class FakeFit:
    """A fit whose posterior is the network itself, plus noise on its outputs where asked for."""

    net: nn.Module
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    likelihood: Likelihood = field(default_factory=Categorical)
    prior: Prior = Normal(1.0)  # noqa: RUF009
    engine_name: str = "fake"
    seconds: float = 1.5
    elbo: float | None = -12.5
    elbo_kind: str = "bound"
    noise: float = 0.0
    can_be_cut: bool = True
    learned: tuple[str, ...] = ()
    training: Training = Training(3, 16, 60, 0, "data", "start")  # noqa: RUF009 - it is frozen

    @property
    def bnn(self) -> Any:
        return SimpleNamespace(
            net=self.net,
            likelihood=self.likelihood,
            sites={"0.weight": WeightSite("0.weight", torch.Size((6, 4)), self.prior, None)},
        )

    def masks(self) -> dict[str, Tensor]:
        return dict(self.kept)

    def predict(self, x: Any, num_samples: int = 32) -> Prediction:
        with torch.no_grad():
            output = self.net(**x) if isinstance(x, dict) else self.net(x)
        draws = output.expand(num_samples, *output.shape)
        return Prediction(draws + self.noise * torch.randn_like(draws), self.likelihood)

    def compress(self, data: Any, /) -> Compressed:
        if not self.can_be_cut:
            raise UnsupportedError("attention cannot be cut", accepted="chains of layers")
        return compress(
            self.net, self.kept, data[0], likelihood=self.likelihood, measure_latency=False
        )
