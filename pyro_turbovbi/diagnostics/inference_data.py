"""A fit in ArviZ's form: `InferenceData` (ArviZ 0.x) or `DataTree` (ArviZ 1.x).

The draws of q(w) are independent, so they form one chain, and R-hat and effective sample sizes mean
nothing for them. How good they are is said by `khat`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_turbovbi._random import seeded
from pyro_turbovbi.batches import Data, Inputs
from pyro_turbovbi.diagnostics._arviz import Groups, from_groups, import_arviz
from pyro_turbovbi.diagnostics._draws import data_on_device, predict_with, require_positive
from pyro_turbovbi.diagnostics.protocols import PosteriorFit
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, SiteError
from pyro_turbovbi.lift import TARGET
from pyro_turbovbi.posterior import Posterior, Prediction

#: Weights of every site that are exported unless told otherwise.
PER_SITE = 8
#: Most weights that may be exported: ArviZ treats each as a variable of its own.
MOST_WEIGHTS = 10_000
#: Larger inputs are left out of the constant data.
MOST_INPUTS = 1_000_000

#: A site's name, names of sites, or masks by name of the site.
Sites = str | Sequence[str] | Mapping[str, Tensor]


@dataclass(frozen=True)
class _Selection:
    """The weights to export: flat indices by site."""

    indices: Mapping[str, Tensor]

    def of(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        return {n: _array(weights[n].flatten()[i.to(weights[n].device)]) for n, i in self.items()}

    def items(self) -> list[tuple[str, Tensor]]:
        return list(self.indices.items())

    def labels(self, shapes: Mapping[str, torch.Size]) -> dict[str, list[str]]:
        """Where each weight stands in its tensor, such as "3,17"."""
        return {
            f"{name}_index": [
                ",".join(map(str, place))
                for place in np.stack(np.unravel_index(index.numpy(), shapes[name]), 1).tolist()
            ]
            for name, index in self.items()
        }


def to_inference_data(
    fit: PosteriorFit,
    test: Data,
    *,
    num_samples: int = 200,
    sites: Sites | None = None,
    seed: int = 0,
) -> Any:
    """Export a fit to ArviZ.

    Groups: `posterior` (chosen weights, one variable a site along "{site}_index"; where there is a
    support layer, `density`: the share of active weights of supports drawn element by element from
    q(s); learned likelihood parameters, which are points), `posterior_predictive` and
    `log_likelihood` of `y` under the same draws (the latter in nats a point), `observed_data`, and
    `constant_data`: `hyperparameters` of every site's prior, learned ones as they were at last (NaN
    where a prior has none of that name), and the inputs unless they have more than a million
    numbers. Attributes: the engine, the seconds of training, the ELBO, its kind, its trace over the
    epochs in nats, and the sites whose hyper-parameters were learned.

    Args:
        fit: A fitted net.
        test: Data for the predictive groups: `DataLoader`, `Dataset` or pair of tensors.
        num_samples: Posterior draws.
        sites: Name or names of sites to export whole, or boolean masks of the weights to export, by
            name of the site. Default: of every site the 8 weights of the largest posterior mean.
        seed: Seed of the draws; the global random state is left as it was.

    Returns:
        `arviz.InferenceData`, or an `xarray.DataTree` from ArviZ 1 on.

    Raises:
        InvalidArgumentError: if `num_samples` is not positive, a mask is not boolean, or more than
            10,000 weights are chosen.
        ModuleNotFoundError: if ArviZ is not installed.
        ShapeError: if a mask has not its weight's shape.
        SiteError: if a name is none of a weight site.
    """
    require_positive("num_samples", num_samples)
    arviz = import_arviz()
    selection = _select(fit, sites)
    x, y = data_on_device(fit, test)
    with seeded(seed), torch.no_grad():
        draws = [_one_draw(fit, selection, x, y) for _ in range(num_samples)]
    stacked = {
        group: {name: np.stack([draw[group][name] for draw in draws])[None] for name in variables}
        for group, variables in draws[0].items()
    }
    shapes = {name: site.shape for name, site in fit.bnn.sites.items()}
    target = fit.bnn.likelihood.prepare(y, predict_with(fit, fit.posterior.mean(), x).outputs[0])
    coords: dict[str, Sequence[Any]] = {**selection.labels(shapes)}
    dims = {name: [f"{name}_index"] for name in selection.indices}
    if "density" in stacked["posterior"]:
        coords["site"], dims["density"] = list(fit.posterior.support_probs()), ["site"]
    data = stacked | {"observed_data": {TARGET: _array(target)}}
    inputs = _inputs(x)
    hyperparameters, coordinates = _hyperparameters(fit)
    data["constant_data"] = inputs | {"hyperparameters": hyperparameters}
    coords |= coordinates
    dims["hyperparameters"] = list(coordinates)
    for name, array in (data["observed_data"] | inputs).items():
        dims[name] = ["point", *(f"{name}_dim_{i}" for i in range(1, array.ndim))]
    return from_groups(Groups(data, coords, dims, _attributes(fit)), arviz)


def _one_draw(
    fit: PosteriorFit, selection: _Selection, x: Inputs, y: Tensor
) -> dict[str, dict[str, Any]]:
    """The arrays of one draw, by group and variable."""
    weights = fit.posterior.draw()
    prediction = predict_with(fit, weights, x)
    return {
        "posterior": selection.of(weights) | _density(fit.posterior) | _points(fit.bnn.likelihood),
        "posterior_predictive": {TARGET: _array(_targets(prediction))},
        "log_likelihood": {TARGET: _array(prediction.log_likelihood(y)[0])},
    }


def _targets(prediction: Prediction) -> Tensor:
    sampled: Any = prediction.likelihood.distribution(prediction.outputs[0])
    return sampled.sample()  # type: ignore[no-any-return]


def _density(posterior: Posterior) -> dict[str, Any]:
    probs = posterior.support_probs()
    if not probs:
        return {}
    return {"density": np.array([float(torch.bernoulli(p).mean()) for p in probs.values()])}


def _points(likelihood: nn.Module) -> dict[str, Any]:
    return {f"likelihood.{name}": _array(p) for name, p in likelihood.named_parameters()}


def _inputs(x: Inputs) -> dict[str, Any]:
    named = {"x": x} if isinstance(x, Tensor) else x
    if sum(value.numel() for value in named.values()) > MOST_INPUTS:
        return {}
    return {name: _array(value) for name, value in named.items()}


def _hyperparameters(fit: Any) -> tuple[Any, dict[str, list[str]]]:
    """An array [sites, names], NaN where a prior has no such number; and its coordinates."""
    by_site = fit.hyperparameters()
    names = list(dict.fromkeys(name for values in by_site.values() for name in values))
    table = [[values.get(name, np.nan) for name in names] for values in by_site.values()]
    coordinates = {"weight": list(by_site), "hyperparameter": names}
    return np.array(table).reshape(len(by_site), len(names)), coordinates


def _attributes(fit: Any) -> dict[str, Any]:
    """Attributes that survive a netCDF file: no None."""
    values = {
        "inference_library": "pyro_turbovbi",
        "engine": fit.engine_name,
        "training_seconds": fit.seconds,
        "elbo": fit.elbo,
        "elbo_kind": fit.elbo_kind,
        "elbo_trace": list(fit.history.elbo),
        "learned": ", ".join(fit.learned) or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _select(fit: PosteriorFit, sites: Sites | None) -> _Selection:
    if sites is None:
        mean = fit.posterior.mean()
        return _Selection({name: _largest(mean[name]) for name in fit.bnn.sites})
    sites = [sites] if isinstance(sites, str) else sites
    unknown = [name for name in sites if name not in fit.bnn.sites]
    if unknown:
        raise SiteError("unknown weight sites", given=unknown, accepted=list(fit.bnn.sites))
    shapes = {name: fit.bnn.sites[name].shape for name in sites}
    count = sum(
        int(sites[name].sum()) if isinstance(sites, Mapping) else shape.numel()
        for name, shape in shapes.items()
    )
    if count > MOST_WEIGHTS:
        raise InvalidArgumentError(
            "too many weights for ArviZ, which treats each as a variable",
            given=f"{count:,}",
            accepted=f"at most {MOST_WEIGHTS:,}; boolean masks by site choose some",
        )
    if not isinstance(sites, Mapping):
        return _Selection({name: torch.arange(shape.numel()) for name, shape in shapes.items()})
    return _Selection({name: _masked(name, sites[name], shape) for name, shape in shapes.items()})


def _largest(mean: Tensor) -> Tensor:
    """Flat indices of the largest means, ascending."""
    count = min(PER_SITE, mean.numel())
    return mean.abs().flatten().topk(count).indices.sort().values.cpu()


def _masked(name: str, mask: Tensor, shape: torch.Size) -> Tensor:
    if mask.dtype != torch.bool:
        raise InvalidArgumentError(
            f"the mask of weight {name!r} is not boolean",
            given=mask.dtype,
            accepted="torch.bool, such as fit.masks() gives",
        )
    if mask.shape != shape:
        raise ShapeError(
            f"the mask of weight {name!r} has another shape than the weight",
            given=tuple(mask.shape),
            accepted=str(tuple(shape)),
        )
    return mask.flatten().nonzero().flatten().cpu()


def _array(values: Tensor) -> Any:
    """A NumPy array."""
    return values.detach().cpu().numpy()
