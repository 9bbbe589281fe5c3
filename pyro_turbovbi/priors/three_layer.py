"""The three-layer hierarchical prior: support -> precision -> weight.

With the components i = 1, active (slab), and i = 0, inactive (spike):

    p(w, rho, s) = p(s) p(rho | s) p(w | rho)

    support    s                    jointly under a support prior (Markov chain, grid, independent)
    precision  rho_n | s_n = i  ~   Gamma(a_i, rate b_i)
    weight     w_n | rho_n      ~   Normal(0, 1 / rho_n)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.priors.base import Prior, fan_in
from pyro_turbovbi.supports import Chain, Support

# Scales of the default components in units of 1 / sqrt(fan-in), the scale at which a unit's summed
# input has the variance of one of its inputs. Both were chosen on MNIST's validation split (docs:
# "Choices").
SLAB_SCALE = 50.0
SPIKE_SCALE = 0.06
SPIKE_CONCENTRATION = 4.0


class GammaParameters(NamedTuple):
    """Concentration a and rate b of a Gamma law on a precision (units: 1 / weight^2)."""

    concentration: float
    rate: float

    @property
    def scale(self) -> float:
        """sqrt(b / a): the typical standard deviation of a weight under this component."""
        return sqrt(self.rate / self.concentration)


class Components(NamedTuple):
    """Both precision components of a weight: `active` (slab, s = 1), `inactive` (spike, s = 0)."""

    active: GammaParameters
    inactive: GammaParameters


@dataclass(frozen=True)
class ThreeLayer(Prior):
    """Three-layer structured prior over a weight tensor.

    Emits the Pyro sites ``{name}_support`` (0/1, the weight's shape), ``{name}_precision`` and
    ``{name}``.

    Args:
        support: Support prior: `supports.Independent`, `Chain` or `Grid`, or any object with their
            interface.
        active: Gamma law of the precision of active weights, scalar. Default: concentration 1 and a
            typical weight scale of 50 / sqrt(fan-in).
        inactive: Gamma law of the precision of inactive weights, scalar; its typical weight scale
            sqrt(rate / concentration) must be smaller than that of `active`. Default: concentration
            4 and a typical weight scale of 0.06 / sqrt(fan-in).

    Raises:
        InvalidArgumentError: if a component is no scalar Gamma law, or the two are in the wrong
            order.

    Source: C. Xia, D. H. K. Tsang, V. K. N. Lau, IEEE Trans. Signal Process. 71:670-685, 2023,
    arXiv 2302.10483.
    """

    support: Support = field(default_factory=lambda: Chain(density=0.05, mean_run=10.0))
    active: dist.Gamma | None = field(default=None, compare=False, repr=False)
    inactive: dist.Gamma | None = field(default=None, compare=False, repr=False)
    _explicit: tuple[GammaParameters | None, GammaParameters | None] = field(init=False, repr=False)

    discrete = True

    def __post_init__(self) -> None:
        if isinstance(self.support, type) or not hasattr(self.support, "distribution"):
            raise InvalidArgumentError(
                "support is not a support prior",
                given=self.support,
                accepted="supports.Independent(), supports.Chain(), supports.Grid(), or an object "
                "with .distribution(shape)",
            )
        explicit = (_parameters("active", self.active), _parameters("inactive", self.inactive))
        object.__setattr__(self, "_explicit", explicit)
        active, inactive = explicit
        if active and inactive:
            _check_order(Components(active, inactive))

    def __repr__(self) -> str:
        given = zip(("active", "inactive"), self._explicit, strict=True)
        parts = [f"{name}=Gamma({c.concentration:g}, {c.rate:g})" for name, c in given if c]
        return f"ThreeLayer({', '.join([f'support={self.support!r}', *parts])})"

    def components(self, shape: torch.Size) -> Components:
        """Concentrations and rates of both components for a weight of this shape.

        Raises:
            InvalidArgumentError: if a given component and the other's default for this shape are in
                the wrong order.
        """
        unit = fan_in(shape) ** -0.5
        active, inactive = self._explicit
        components = Components(
            active or GammaParameters(1.0, (SLAB_SCALE * unit) ** 2),
            inactive
            or GammaParameters(
                SPIKE_CONCENTRATION, SPIKE_CONCENTRATION * (SPIKE_SCALE * unit) ** 2
            ),
        )
        _check_order(components)
        return components

    def emit(self, name: str, shape: torch.Size, like: Tensor) -> Tensor:
        """Emit ``{name}_support``, ``{name}_precision`` and ``{name}``. See `Prior.emit`."""
        event_dim = len(shape)
        support = pyro.sample(f"{name}_support", self.support.distribution(shape)).to(like)
        (a1, b1), (a0, b0) = self.components(shape)
        concentration = a0 + (a1 - a0) * support
        rate = torch.where(support > 0.5, like.new_tensor(b1), like.new_tensor(b0))
        precision = pyro.sample(
            f"{name}_precision", dist.Gamma(concentration, rate).to_event(event_dim)
        )
        weight = dist.Normal(torch.zeros_like(precision), precision.rsqrt()).to_event(event_dim)
        return pyro.sample(name, weight)


def _check_order(components: Components) -> None:
    active, inactive = components
    if active.scale <= inactive.scale:
        raise InvalidArgumentError(
            "the active component must allow larger weights than the inactive one",
            given=f"typical weight scales active {active.scale:.3g}, inactive {inactive.scale:.3g}",
            accepted="sqrt(rate / concentration) of active greater than that of inactive",
        )


def _parameters(role: str, gamma: dist.Gamma | None) -> GammaParameters | None:
    if gamma is None:
        return None
    if not isinstance(gamma, torch.distributions.Gamma) or gamma.batch_shape.numel() != 1:
        raise InvalidArgumentError(
            f"the {role} component must be one Gamma law on the precision",
            given=gamma,
            accepted="pyro.distributions.Gamma(concentration, rate) with scalar parameters",
        )
    values = GammaParameters(float(gamma.concentration), float(gamma.rate))
    if not all(isfinite(v) and v > 0 for v in values):
        raise InvalidArgumentError(
            f"the {role} component has parameters out of range",
            given=tuple(values),
            accepted="positive finite concentration and rate",
        )
    return values
