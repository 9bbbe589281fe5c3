"""Hyper-parameters of the prior of one weight site, as plain numbers."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from pyro_turbovbi.distributions import BlockSupport, SupportDistribution
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.priors.three_layer import Components, ThreeLayer, closed_component
from pyro_turbovbi.priors.unit_gates import WeightGates

#: Numbers by name. Probabilities and mean runs have no unit, rates of precisions are squares of
#: weights, scales have the unit of weights.
Hyperparameters = dict[str, float]


def declared(site: WeightSite) -> Hyperparameters:
    """The hyper-parameters that a prior declares for a weight.

    Of a three-layer prior see `three_layer`; where its weight is behind shared gates, also
    `row_gate_density` and `column_gate_density`, and concentration and rate of the Gamma law behind
    closed ones. Of another prior, the numbers that it was made with.
    """
    prior = site.prior
    if isinstance(prior, ThreeLayer):
        components = prior.components(site.shape)
        support = three_layer(prior.support.distribution(site.shape), components)
        return support | _shared_gates(site.gates, components)
    if not is_dataclass(prior):
        return {}
    values = {field.name: getattr(prior, field.name) for field in fields(prior)}
    return {name: float(value) for name, value in values.items() if _is_number(value)}


def three_layer(support: SupportDistribution, components: Components) -> Hyperparameters:
    """The hyper-parameters of a three-layer prior, present ones while they are learned.

    Args:
        support: The distribution of the support.
        components: The Gamma laws of the precisions.

    Returns:
        `support` (see there), `active_concentration`, `active_rate`, `inactive_concentration` and
        `inactive_rate`.
    """
    gammas = {
        f"{role}_{name}": float(value)
        for role, gamma in components._asdict().items()
        for name, value in gamma._asdict().items()
    }
    return support_parameters(support) | gammas


def _shared_gates(gates: WeightGates | None, components: Components) -> Hyperparameters:
    if gates is None:
        return {}
    sides = {"row": gates.rows, "column": gates.columns}
    densities = {f"{side}_gate_density": g.density for side, g in sides.items() if g is not None}
    closed = closed_component(components)
    return densities | {"closed_concentration": closed.concentration, "closed_rate": closed.rate}


def support_parameters(support: SupportDistribution) -> Hyperparameters:
    """The parameters of a support distribution; for blocks, those of the blocks' distribution.

    Returns:
        The stationary `density` and the distribution's own parameters under their own names (`p01`
        and `p10` of a chain, `row_run` and `column_run` of a grid, `gate_p01` ... of gates). Where
        there are transition probabilities, also the `mean_run` of active elements; where there are
        gates, also `gate_density`, `gate_mean_run`, and `within_density`, the density behind an
        open gate.
    """
    if isinstance(support, BlockSupport):
        return support_parameters(support.blocks)
    own = {name: float(getattr(support, name)) for name in support.arg_constraints}
    values = {"density": float(support.density)} | own
    if "p10" in own:
        values["mean_run"] = 1.0 / own["p10"]
    if "gate_p10" in own:
        values["gate_density"] = own["gate_p01"] / (own["gate_p01"] + own["gate_p10"])
        values["gate_mean_run"] = 1.0 / own["gate_p10"]
        values["within_density"] = own["p01"] / (own["p01"] + own["p10"])
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


__all__ = ["Hyperparameters", "declared", "support_parameters", "three_layer"]
