"""The guide of Turbo-VBI: one factor per weight site, an autoguide for every other latent site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families.factors import (
    INIT_SCALE,
    GateFactor,
    NormalFactor,
    ThreeLayerFactor,
    make_factor,
)
from pyro_turbovbi.families.site_guide import SiteGuide
from pyro_turbovbi.priors.base import (
    SubstituteWeights,
    WeightSite,
    discover_weights,
    start_value,
)
from pyro_turbovbi.priors.unit_gates import Gates


class TurboGuide(SiteGuide):
    """A Pyro guide over the weights of any model that draws them from priors of this package.

    All parameters exist after construction. It is what `TurboVBI` trains, and stock
    `pyro.infer.SVI` accepts it as well (with score-function gradients for the supports, which
    converge slowly: that is what Turbo-VBI is for).

    Args:
        sites: Weight sites by name: ``bnn.sites`` of a lifted net, or `discover_weights`.
        autoguide: Guide of the model's other latent sites, if it has any.
        init_scale: Start of the posterior standard deviations, in units of 1 / sqrt(fan-in).

    Raises:
        UnsupportedError: if there are no sites, or a site's prior cannot be handled.
    """

    def __init__(
        self,
        sites: Mapping[str, WeightSite],
        *,
        autoguide: AutoNormal | None = None,
        init_scale: float = INIT_SCALE,
    ) -> None:
        super().__init__(sites, make_factor, init_scale=init_scale)
        self._gates = nn.ModuleList(
            GateFactor(gates, like) for gates, like in gate_groups(sites).values()
        )
        self.autoguide = autoguide

    @property
    def gate_factors(self) -> list[GateFactor]:
        """Factors of the unit gates, one for each group of units; none without shared gates."""
        return list(self._gates)  # type: ignore[arg-type]

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run the guide: emit all its sample sites; return the weights by name."""
        drawn = {gates.name: gates.open for gates in (factor() for factor in self.gate_factors)}
        gates = {name: opened for name, opened in drawn.items() if opened is not None}
        weights = {factor.name: factor(self._opened(factor, gates)) for factor in self}
        if self.autoguide is not None:
            with pyro.settings.context(module_local_params=True):
                self.autoguide(*args, **kwargs)
        return weights

    def support_probs(self) -> dict[str, Tensor]:
        """q(s = 1) by name of the weights with a support, both gates open included."""
        gates = {f.gates.name: f.log_odds.detach().sigmoid() for f in self.gate_factors}
        probs = {}
        for factor in self:
            if isinstance(factor, ThreeLayerFactor):
                opened = self._opened(factor, gates)
                own = factor.support_log_odds.detach().sigmoid()
                probs[factor.name] = own if opened is None else own * opened
        return probs

    def _opened(self, factor: NormalFactor, gates: Mapping[str, Tensor]) -> Tensor | None:
        """Product of the values of both gates in the weight's shape; None without gates."""
        behind = self.sites[factor.name].gates
        loc = factor.loc.detach()
        return None if behind is None else behind.both(loc.shape, gates, loc)


def gate_groups(sites: Mapping[str, WeightSite]) -> dict[str, tuple[Gates, Tensor]]:
    """The groups of gated units by name, each with a tensor of the device and dtype of its weights.

    Args:
        sites: Weight sites by name.
    """
    found: dict[str, tuple[Gates, Tensor]] = {}
    for site in sites.values():
        sides = (site.gates.rows, site.gates.columns) if site.gates else ()
        like = torch.empty(()) if site.init is None else site.init.new_empty(())
        found |= {g.name: (g, like) for g in sides if g is not None and g.name not in found}
    return found


def turbo_guide(
    model: Callable[..., Any], *args: Any, init_scale: float = INIT_SCALE, **kwargs: Any
) -> TurboGuide:
    """Build the guide of a Pyro model by running it on one batch of its arguments.

    Args:
        model: The Pyro model.
        *args: Its arguments, for one batch.
        init_scale: See `TurboGuide`.
        **kwargs: Its keyword arguments.

    Raises:
        UnsupportedError: if the model draws no weight from a prior of this package, if a weight's
            prior cannot be handled, if a weight is drawn in a plate or under a scale or mask, or if
            another latent site is discrete.
    """
    sites = discover_weights(_WeightsAsDeclared()(model), *args, **kwargs)
    fixed = _latents_only(model, sites, partial(model, *args, **kwargs))
    others = _other_latents(partial(fixed, *args, **kwargs))
    if not others:
        return TurboGuide(sites, init_scale=init_scale)
    with pyro.settings.context(module_local_params=True):
        autoguide = AutoNormal(poutine.block(fixed, expose=others), init_scale=0.1)
        autoguide(*args, **kwargs)  # Pyro creates an autoguide's parameters at its first call
    return TurboGuide(sites, autoguide=autoguide, init_scale=init_scale)


class _WeightsAsDeclared(Messenger):
    """Refuses weights whose surroundings say something of their prior: nobody would hear it."""

    def _pyro_weight(self, msg: Any) -> None:
        found = {
            "poutine.scale": not isinstance(msg["scale"], Tensor) and msg["scale"] == 1.0,
            "poutine.mask": msg["mask"] is None or msg["mask"] is True,
            "pyro.plate": all(frame.dim is None for frame in msg["cond_indep_stack"]),
        }
        around = [name for name, harmless in found.items() if not harmless]
        if around:
            raise UnsupportedError(
                f"Turbo-VBI takes the prior of weight {msg['name']!r} as it is declared, not as "
                "plates, scales and masks around it change it",
                given=f"prior.sample inside {', '.join(around)}",
                accepted="plates, scales and masks around observations and other latents alone; "
                "TurboSettings(kl_weight=...) for a prior that counts less",
            )


class _SubstituteParams(Messenger):
    """Hands the present values of a model's params to it, so that running it registers none."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_param(self, msg: Any) -> None:
        if msg["name"] in self._values:
            msg["value"] = self._values[msg["name"]]
            msg["done"] = msg["stop"] = True


def _latents_only(
    model: Callable[..., Any], sites: Mapping[str, WeightSite], example: Callable[[], Any]
) -> Callable[..., Any]:
    """The model with weights and params fixed at their start values: only other latents are left.

    Pyro refuses global params in a model whose autoguide keeps its own parameters to itself.
    """
    weights = {name: start_value(site) for name, site in sites.items()}
    with torch.no_grad(), SubstituteWeights(weights):
        trace = poutine.trace(example, param_only=True).get_trace()
    nodes: Any = trace.nodes
    params = {name: nodes[name]["value"].detach() for name in trace.param_nodes}

    def fixed(*args: Any, **kwargs: Any) -> Any:
        with SubstituteWeights(weights), _SubstituteParams(params):
            return model(*args, **kwargs)

    return fixed


def _other_latents(fixed: Callable[[], Any]) -> list[str]:
    trace = poutine.trace(fixed).get_trace()
    nodes: Any = trace.nodes
    latents = list(trace.stochastic_nodes)
    discrete = [name for name in latents if nodes[name]["fn"].has_enumerate_support]
    if discrete:
        raise UnsupportedError(
            "the model has discrete latent sites outside the weight priors",
            given=", ".join(discrete),
            accepted="continuous latent sites, or stock SVI with a guide of your own",
        )
    return latents
