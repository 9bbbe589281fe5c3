"""A guide made of one factor per weight site, and the check of what a factor can be made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families.factors import INIT_SCALE, NormalFactor
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.priors.normal import Normal
from pyro_turbovbi.priors.three_layer import ThreeLayer

MakeFactor = Callable[[WeightSite, float], NormalFactor]


class SiteGuide(nn.Module):
    """A Pyro guide over weights: independent factors, one for each weight site.

    All parameters exist after construction. A model of your own with further latent sites needs a
    guide of these beside it: call both in one function.

    Args:
        sites: Weight sites by name: ``bnn.sites`` of a lifted net, or `discover_weights`.
        factor: Makes the factor of a site from it and `init_scale`.
        init_scale: Start of the posterior standard deviations, in units of 1 / sqrt(fan-in).

    Raises:
        UnsupportedError: if there are no sites, or a site's prior cannot be handled.
    """

    def __init__(
        self,
        sites: Mapping[str, WeightSite],
        factor: MakeFactor,
        *,
        init_scale: float = INIT_SCALE,
    ) -> None:
        super().__init__()
        if not sites:
            raise UnsupportedError(
                "the model draws no weight from a prior of this package",
                accepted="ptv.lift(net, ...), or a Pyro model that calls prior.sample(name, shape)",
            )
        self.sites = dict(sites)
        self.factors = nn.ModuleList(factor(site, init_scale) for site in sites.values())

    def __iter__(self) -> Iterator[NormalFactor]:
        return iter(self.factors)  # type: ignore[arg-type]

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run the guide: emit all its sample sites; return the weights by name."""
        return {factor.name: factor() for factor in self}


def three_layer_of(site: WeightSite, *, collapse: bool | str, guide: str) -> ThreeLayer | None:
    """The three-layer prior of a site in the form that a guide is for; None under a normal prior.

    Args:
        site: The weight site.
        collapse: The form that the guide needs, as the prior's argument `collapse`.
        guide: Name of the guide, for the message.

    Raises:
        UnsupportedError: if the prior is another one, or has another form.
    """
    prior = site.prior
    if isinstance(prior, Normal):
        return None
    if isinstance(prior, ThreeLayer) and prior.collapse == collapse and prior.gates is None:
        return prior
    raise UnsupportedError(
        f"{guide} cannot handle the prior of weight {site.name!r}",
        given=prior,
        accepted=f"priors.ThreeLayer(..., collapse={collapse!r}) without shared gates, "
        "priors.Normal(), another guide (the documentation's page on priors has a table of guides "
        "and forms of the prior), or another engine: engines.Turbo() for collapse=False",
    )
