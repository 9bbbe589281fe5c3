"""Priors as plain data: dictionaries, YAML and TOML files.

A specification names a class by `kind` and gives its arguments::

    kind: ThreeLayer
    support: {kind: Chain, density: 0.05, mean_run: 5}

and for different priors in one network, patterns over parameter names as in `by_site`::

    sites:
      "*.bias": null
      "0.weight": {kind: Normal, scale: 0.1}
    default: {kind: ThreeLayer}

Every prior that `pyro_turbovbi.priors` exports and every support prior of `pyro_turbovbi.supports`
can be written so: the schema is made of their fields, and exporting a new prior registers it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import pyro.distributions as dist
import torch

from pyro_turbovbi import supports
from pyro_turbovbi.errors import InvalidArgumentError, SpecError
from pyro_turbovbi.priors.base import Prior
from pyro_turbovbi.priors.selection import BySite, by_site
from pyro_turbovbi.specs import families
from pyro_turbovbi.specs.families import Adapter, Family, Vocabulary

if TYPE_CHECKING:
    from pyro_turbovbi.specs.schema import Schema

#: Annotates a choice of a prior or a selection by site.
AnyPrior = Annotated[Prior | BySite, "a prior or a selection"]
#: Annotates a choice of a prior or a `Point`.
SitePrior = Annotated[Prior, "a prior or a point"]


def from_spec(spec: Mapping[str, Any] | str | os.PathLike[str]) -> Prior | BySite:
    """Make a prior from its specification.

    Args:
        spec: A dictionary, or the path of a YAML or TOML file that holds one: `kind` and the
            arguments of a prior, or `sites` and `default` as in `by_site`. A site or the default
            that is trained as a point is null, or `{kind: Point}` where there is no null.

    Returns:
        What `ptv.lift` takes as ``prior``.

    Raises:
        SpecError: An `InvalidArgumentError`, if something is wrong; names the key and, in a file,
            its line.

    Example:
        >>> from pyro_turbovbi import priors
        >>> priors.from_spec({"kind": "ThreeLayer", "support": {"kind": "Chain", "density": 0.1}})
        ThreeLayer(support=Chain(density=0.1, mean_run=5.0, dim=None))
    """
    from pyro_turbovbi.specs.documents import Document, read

    document = read(spec) if isinstance(spec, str | os.PathLike) else Document(spec)
    prior: Prior | BySite = _schema().check(document)
    return prior


def to_spec(prior: Prior | BySite) -> dict[str, Any]:
    """The specification of a prior: the inverse of `from_spec`.

    All arguments are written, also those with default values: the specification keeps its meaning
    if a default changes.

    Args:
        prior: A prior of this package, or a selection by `by_site`.

    Returns:
        Plain data without None: it can be written as YAML, TOML or JSON.

    Raises:
        SpecError: If the prior or its support is of a class of your own.
    """
    if isinstance(prior, BySite):
        return _dump_by_site(prior)
    return families.dump(prior, prior_family(), vocabulary())


class Point:
    """No prior: the parameter is trained as a point. Stands for None, which TOML does not have."""


@functools.cache
def prior_family() -> Family:
    """All priors that the package exports."""
    from pyro_turbovbi import priors

    exported = {name: getattr(priors, name) for name in priors.__all__}
    return Family("a prior", {name: c for name, c in exported.items() if _is_prior(c)})


@functools.cache
def support_family() -> Family:
    """All support priors of `pyro_turbovbi.supports`."""
    classes = {n: c for n, c in vars(supports).items() if isinstance(c, type)}
    declared = (n for n, c in classes.items() if dataclasses.is_dataclass(c))
    return Family(
        "a support prior", {n: classes[n] for n in declared if hasattr(classes[n], "distribution")}
    )


@functools.cache
def selection_family() -> Family:
    """Priors, and selections of them by site."""
    selection = {"sites": _by_site, "default": _by_site}
    return Family("a prior", prior_family().members, implied=selection)


@functools.cache
def vocabulary() -> Vocabulary:
    """What the types of the priors' fields stand for."""
    priors = prior_family()
    points = Family("a prior", {**priors.members, "Point": Point}, make=_make_site_prior)
    return Vocabulary(
        families={
            Prior: priors,
            supports.Support: support_family(),
            SitePrior: points,
            AnyPrior: selection_family(),
        },
        adapters={dist.Gamma: Adapter(_gamma, _dump_gamma)},
    )


@functools.cache
def _schema() -> Schema:
    from pyro_turbovbi.specs.schema import Schema

    return Schema(selection_family(), vocabulary())


def _is_prior(exported: Any) -> bool:
    is_class = isinstance(exported, type) and issubclass(exported, Prior)
    return is_class and dataclasses.is_dataclass(exported)


def _make_site_prior(member: Any, arguments: dict[str, Any]) -> Prior | None:
    return None if member is Point else member(**arguments)


def _by_site(
    sites: Mapping[str, SitePrior | None] = {},
    default: SitePrior | None = None,
) -> BySite:
    return by_site(sites, default)


def _dump_by_site(selection: BySite) -> dict[str, Any]:
    if len(dict(selection.patterns)) < len(selection.patterns):
        raise SpecError(
            "a pattern is there twice, and a mapping holds it once",
            given=[pattern for pattern, _ in selection.patterns],
            accepted="priors.by_site({pattern: prior})",
        )
    # A table each, as TOML writes single values before tables, and the first match counts.
    sites = {
        pattern: {families.KIND: "Point"} if prior is None else to_spec(prior)
        for pattern, prior in selection.patterns
    }
    default = {} if selection.default is None else {"default": to_spec(selection.default)}
    return {"sites": sites, **default}


def _gamma(concentration: float, rate: float) -> dist.Gamma:
    for name, value in (("concentration", concentration), ("rate", rate)):
        if not (isfinite(value) and value > 0.0):
            raise InvalidArgumentError(
                f"{name} is out of range", given=value, accepted="a positive finite number"
            )
    # Double precision: the numbers come back exactly as they were written.
    double = torch.float64
    return dist.Gamma(torch.tensor(concentration, dtype=double), torch.tensor(rate, dtype=double))


def _dump_gamma(gamma: dist.Gamma) -> dict[str, Any]:
    return {"concentration": float(gamma.concentration), "rate": float(gamma.rate)}
