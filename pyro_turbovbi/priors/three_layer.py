"""The three-layer hierarchical prior: support -> precision -> weight.

With the components i = 1, active (slab), and i = 0, inactive (spike):

    p(w, rho, s) = p(s) p(rho | s) p(w | rho)

    support    s                    jointly under a support prior (Markov chain, grid, independent)
    precision  rho_n | s_n = i  ~   Gamma(a_i, rate b_i)
    weight     w_n | rho_n      ~   Normal(0, 1 / rho_n)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, sqrt
from typing import Any, Literal, NamedTuple, TypeGuard

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_turbovbi.distributions import CollapsedPrecision, CollapsedThreeLayer, SelectedGamma
from pyro_turbovbi.distributions.support import EXACT_EVIDENCE, SupportDistribution
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError
from pyro_turbovbi.priors._checks import is_real
from pyro_turbovbi.priors.base import Prior, WeightSite, fan_in
from pyro_turbovbi.priors.unit_gates import GATE_DENSITY, WeightGates
from pyro_turbovbi.supports import Blocks, Chain, Grid, Support

# Scales of the default components in units of 1 / sqrt(fan-in), the scale at which a unit's summed
# input has the variance of one of its inputs (or of the weight's rms). Both were chosen on MNIST's
# validation split (docs: "Choices").
SLAB_SCALE = 50.0
SPIKE_SCALE = 0.06
SPIKE_CONCENTRATION = 4.0
#: Behind a closed gate: the precision is all but fixed.
CLOSED_CONCENTRATION = 50.0


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
    ``{name}``; with ``collapse="support"`` the two continuous sites ``{name}_precision``, of the
    law `distributions.CollapsedPrecision`, and ``{name}``; with ``collapse=True`` the single
    continuous site ``{name}``, `distributions.CollapsedThreeLayer`. The marginal law of what is
    left is always the same.

    Args:
        support: Support prior: `supports.Independent`, `Chain`, `Grid`, `Gated` or `Blocks`, or any
            object with their interface.
        active: Gamma law of the precision of active weights, scalar. Default: concentration 1 and a
            typical weight scale of 50 units, see `scale`.
        inactive: Gamma law of the precision of inactive weights, scalar; its typical weight scale
            sqrt(rate / concentration) must be smaller than that of `active`. Default: concentration
            4 and a typical weight scale of 0.06 units.
        collapse: What to sum out, exactly: True for supports and precisions, "support" for supports
            alone, False for nothing. Stock autoguides, MAP and NUTS need a form without supports,
            Turbo-VBI and guides over the supports the full one.
        gates: "shared" puts a gate on every unit (input feature or channel, hidden unit) that all
            its incoming and outgoing weights share; a weight is active where both its gates are
            open and its support says so. Emits, before the weights, one site ``{group}_gate`` per
            group of units (see `coupling.couplings`), and ``{name}_active`` as a deterministic
            site. Behind a closed gate the precision has the scale of `inactive` and the
            concentration 50: there a weight has no heavy tail to survive in. Turbo-VBI needs a
            support whose rows are independent then.
        gate_density: Prior probability of an open gate.
        scale: Unit of the default components' weight scales: "fan_in" is 1 / sqrt(fan-in), from the
            weight's shape alone; "rms" the root mean square of the weight's start value, for
            trained nets whose layers have scales of their own (1 / sqrt(fan-in) for a start value
            of zeros); or a number.

    Attributes:
        discrete: Whether there is a discrete site: True unless collapsed.

    Raises:
        InvalidArgumentError: if a component is no scalar Gamma law, the two are in the wrong order,
            or `collapse` is something else.
        UnsupportedError: if a grid is to be collapsed: its normaliser is intractable.

    Source: C. Xia, D. H. K. Tsang, V. K. N. Lau, IEEE Trans. Signal Process. 71:670-685, 2023,
    arXiv 2302.10483.
    """

    support: Support = field(default_factory=lambda: Chain(density=0.05, mean_run=10.0))
    active: dist.Gamma | None = field(default=None, compare=False, repr=False)
    inactive: dist.Gamma | None = field(default=None, compare=False, repr=False)
    collapse: bool | Literal["support"] = False
    gates: Literal["shared"] | None = None
    gate_density: float = GATE_DENSITY
    scale: Literal["fan_in", "rms"] | float = "fan_in"
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
        if self.collapse not in (False, True, "support"):
            raise InvalidArgumentError(
                "collapse is not a form of the prior",
                given=self.collapse,
                accepted='True, False or "support"',
            )
        if self.collapse:
            _check_tree(self.support)
        _check_gates(self)
        _check_scale(self.scale)
        object.__setattr__(self, "discrete", not self.collapse)

    def __repr__(self) -> str:
        given = zip(("active", "inactive"), self._explicit, strict=True)
        parts = [f"{name}=Gamma({c.concentration:g}, {c.rate:g})" for name, c in given if c]
        if self.collapse:
            parts.append(f"collapse={self.collapse!r}")
        if self.gates:
            parts.append(f"gates={self.gates!r}, gate_density={self.gate_density:g}")
        if self.scale != "fan_in":
            parts.append(f"scale={self.scale!r}")
        return f"ThreeLayer({', '.join([f'support={self.support!r}', *parts])})"

    def support_distribution(self, shape: torch.Size) -> SupportDistribution:
        """The law of the support of a weight of this shape, for all that infers supports.

        To draw from the prior any Pyro distribution will do.

        Raises:
            UnsupportedError: if the declared support makes something else of it.
        """
        made: object = self.support.distribution(shape)
        if not isinstance(made, SupportDistribution) or made.event_shape != shape:
            shown = getattr(made, "event_shape", None)
            raise UnsupportedError(
                f"{self.support!r} makes no support distribution for a weight",
                given=type(made).__name__
                + ("" if shown is None else f" of event shape {tuple(shown)}"),
                accepted=f"a distributions.CustomSupport, or another SupportDistribution, of event "
                f"shape {tuple(shape)}",
            )
        return made

    def components(self, shape: torch.Size) -> Components:
        """Concentrations and rates of both components for a weight of this shape.

        Raises:
            InvalidArgumentError: if a given component and the other's default for this shape are in
                the wrong order.
        """
        unit = self._unit(shape)
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

    def bound_to(self, init: Tensor | None) -> ThreeLayer:
        """The prior with the weight's rms as its unit, where it asks for that.

        Raises:
            InvalidArgumentError: if it does and there is no start value.
        """
        if self.scale != "rms":
            return self
        if init is None:
            raise InvalidArgumentError(
                'scale="rms" needs the start value of the weight',
                accepted='prior.sample(name, shape, init=tensor), scale="fan_in", or a number',
            )
        rms = float(init.detach().double().square().mean().sqrt())
        return replace(self, scale=rms or "fan_in")

    def _unit(self, shape: torch.Size) -> float:
        if self.scale == "rms":
            raise InvalidArgumentError(
                'components of a prior with scale="rms" depend on the weight',
                given=tuple(shape),
                accepted="prior.bound_to(start_value).components(shape)",
            )
        return fan_in(shape) ** -0.5 if self.scale == "fan_in" else self.scale

    def marginal(self, shape: torch.Size, like: Tensor | None = None) -> CollapsedThreeLayer:
        """The law of a weight with its support and precisions summed out.

        Args:
            shape: Shape of the weight.
            like: Scalar tensor that carries the device and dtype of samples.
        """
        return CollapsedThreeLayer(
            self.support_distribution(shape), *self.components(shape), like=like
        )

    def precision_marginal(
        self, shape: torch.Size, like: Tensor | None = None
    ) -> CollapsedPrecision:
        """The law of the precisions with their support summed out. Arguments: see `marginal`."""
        return CollapsedPrecision(
            self.support_distribution(shape), *self.components(shape), like=like
        )

    def emit(self, name: str, shape: torch.Size, like: Tensor) -> Tensor:
        """Emit ``{name}_support``, ``{name}_precision`` and ``{name}``, those that are left.

        See `Prior.emit`.
        """
        if self.collapse is True:
            return pyro.sample(name, self.marginal(shape, like))
        dims = len(shape)
        law: Any
        if self.collapse:
            law = self.precision_marginal(shape, like)
        else:
            support = pyro.sample(f"{name}_support", self.support.distribution(shape)).to(like)
            selected: Any = SelectedGamma(support, *self.components(shape))
            law = selected.to_event(dims)
        precision = pyro.sample(f"{name}_precision", law)
        weight = dist.Normal(torch.zeros_like(precision), precision.rsqrt()).to_event(dims)
        return pyro.sample(name, weight)

    def emit_gated(self, name: str, shape: torch.Size, like: Tensor, gates: WeightGates) -> Tensor:
        """As `emit`, with the law of the precisions of weights behind a closed gate."""
        if self.gates is None:
            return super().emit_gated(name, shape, like, gates)
        opened = gates.open(shape, like)
        support = pyro.sample(f"{name}_support", self.support.distribution(shape)).to(like)
        active = pyro.deterministic(f"{name}_active", support * opened)
        components = self.components(shape)
        shut = closed_component(components)
        concentration, rate = (
            torch.where(opened > 0.5, inactive, closed)
            for inactive, closed in zip(components.inactive, shut, strict=True)
        )
        law: Any = SelectedGamma(active, components.active, (concentration, rate))
        precision = pyro.sample(f"{name}_precision", law.to_event(len(shape)))
        weight = dist.Normal(torch.zeros_like(precision), precision.rsqrt())
        return pyro.sample(name, weight.to_event(len(shape)))

    def start(self, name: str, init: Tensor) -> dict[str, Tensor]:
        """See `Prior.start`; the precisions start at their mean given the weight, E[rho | w]."""
        if self.collapse != "support":
            return {name: init}
        law = self.marginal(init.shape)
        return {name: init, f"{name}_precision": law.expected_precision(init)}


def closed_component(components: Components) -> GammaParameters:
    """Gamma law of a precision behind a closed gate: the spike's scale without its heavy tail.

    A large weight is all but impossible under it, so it either opens its gates or goes. Under the
    spike it could stay, as one of its rare large values, and be cut although the net relies on it.
    """
    scale = components.inactive.scale
    return GammaParameters(CLOSED_CONCENTRATION, CLOSED_CONCENTRATION * scale**2)


def is_collapsed(prior: Prior) -> TypeGuard[ThreeLayer]:
    """Whether a prior is a three-layer prior with its support summed out."""
    return isinstance(prior, ThreeLayer) and prior.collapse is not False


def collapsed_support_probs(
    sites: Mapping[str, WeightSite], draws: Iterable[Mapping[str, Tensor]]
) -> dict[str, Tensor] | None:
    """P(s = 1 | data) of weights under collapsed priors, from posterior draws of the weights.

    Given the weights the support does not depend on the data any more, so this is the mean over
    draws of P(s = 1 | w), which message passing gives exactly.

    Args:
        sites: Weight sites by name, such as ``bnn.sites``.
        draws: Joint posterior draws, at least one: weights by site name, [*draws, *weight].

    Returns:
        Probabilities of the weights' shapes by name of the collapsed sites; None if there are none.

    Raises:
        NumericalError: if a weight is not finite.
    """
    laws = {
        name: site.prior.marginal(site.shape)
        for name, site in sites.items()
        if is_collapsed(site.prior)
    }
    if not laws:
        return None
    totals = {name: torch.zeros(()) for name in laws}
    count = 0
    for draw in draws:
        for name, law in laws.items():
            probs = law.support_posterior(draw[name]).probs
            together = probs.reshape(-1, *law.event_shape)
            totals[name] = totals[name].to(probs) + together.sum(0)
        count += len(together)
    return {name: total / count for name, total in totals.items()}


def _check_gates(prior: ThreeLayer) -> None:
    inside = is_real(prior.gate_density) and 0.0 < prior.gate_density < 1.0
    if prior.gates not in (None, "shared") or not inside:
        raise InvalidArgumentError(
            "gates are out of range",
            given=f"gates={prior.gates!r}, gate_density={prior.gate_density!r}",
            accepted='gates="shared" or None, and a density in (0, 1)',
        )
    if prior.gates and prior.collapse:
        raise UnsupportedError(
            "a prior with shared gates cannot be collapsed: gates couple all weights of a net",
            given=prior,
            accepted="supports.Gated() with collapse=True, or gates='shared' with collapse=False",
        )


def _check_scale(scale: str | float) -> None:
    named = scale in ("fan_in", "rms")
    if not named and not (isinstance(scale, float | int) and isfinite(scale) and scale > 0.0):
        raise InvalidArgumentError(
            "scale is no unit of weights",
            given=scale,
            accepted='"fan_in", "rms", or a positive number',
        )


def _check_tree(support: Support) -> None:
    inner = support
    while isinstance(inner, Blocks):
        inner = inner.support
    if isinstance(inner, Grid):
        raise UnsupportedError(
            "a three-layer prior over a grid cannot be collapsed: its normaliser is intractable",
            given=support,
            accepted=f"{EXACT_EVIDENCE}; or collapse=False with engines.Turbo()",
        )


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
