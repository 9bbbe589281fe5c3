"""The guide of Turbo-VBI: one factor per weight site, an autoguide for every other latent site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pyro
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families.factors import NormalFactor, make_factor
from pyro_turbovbi.priors.base import SubstituteWeights, WeightSite, discover_weights, start_value


class TurboGuide(nn.Module):
    """A Pyro guide for any model whose weights come from priors of this package.

    All parameters exist after construction. It is what `TurboVBI` trains, and stock `pyro.infer.SVI` accepts it as
    well (with score-function gradients for the supports, which is slow to converge: that is what Turbo-VBI is for).

    Args:
        model: The Pyro model.
        example: One batch of positional arguments; the model is run twice to find its sites.
        example_kwargs: Keyword arguments of that batch.
        init_scale: Start of the posterior standard deviations, in units of 1 / sqrt(fan-in).

    Raises:
        UnsupportedError: if the model draws no weight from a prior of this package, if a weight's prior cannot be
            handled, or if another latent site is discrete.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        example: tuple[Any, ...],
        *,
        example_kwargs: Mapping[str, Any] | None = None,
        init_scale: float = 0.3,
    ) -> None:
        super().__init__()
        run = partial(model, *example, **(example_kwargs or {}))
        self.sites: dict[str, WeightSite] = discover_weights(run)
        if not self.sites:
            raise UnsupportedError(
                "the model draws no weight from a prior of this package",
                accepted="ptv.lift(net, ...), or a Pyro model that calls prior.sample(name, shape)",
            )
        self.factors = nn.ModuleList(make_factor(site, init_scale) for site in self.sites.values())
        others = _other_latents(_without_weights(run, self.sites))
        self.autoguide = _autoguide(_without_weights(model, self.sites), others) if others else None
        if self.autoguide is not None:  # Pyro creates an autoguide's parameters at its first call
            with pyro.settings.context(module_local_params=True):
                self.autoguide(*example, **(example_kwargs or {}))

    def __iter__(self) -> Iterator[NormalFactor]:
        return iter(self.factors)  # type: ignore[arg-type]

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run the guide: emit all its sample sites; return the weights by name."""
        weights = {factor.name: factor() for factor in self}
        if self.autoguide is not None:
            with pyro.settings.context(module_local_params=True):
                self.autoguide(*args, **kwargs)
        return weights


def _other_latents(fixed: Callable[..., Any]) -> list[str]:
    trace = poutine.trace(fixed).get_trace()
    latents = list(trace.stochastic_nodes)
    discrete = [name for name in latents if trace.nodes[name]["fn"].has_enumerate_support]
    if discrete:
        raise UnsupportedError(
            "the model has discrete latent sites outside the weight priors",
            given=", ".join(discrete),
            accepted="continuous latent sites, or stock SVI with a guide of your own",
        )
    return latents


def _without_weights(model: Callable[..., Any], sites: dict[str, WeightSite]) -> Callable[..., Any]:
    """The model with its weights fixed at their start values."""
    values = {name: start_value(site) for name, site in sites.items()}

    def fixed(*args: Any, **kwargs: Any) -> Any:
        with SubstituteWeights(values):
            return model(*args, **kwargs)

    return fixed


def _autoguide(fixed: Callable[..., Any], others: list[str]) -> AutoNormal:
    with pyro.settings.context(module_local_params=True):
        return AutoNormal(poutine.block(fixed, expose=others), init_scale=0.1)
