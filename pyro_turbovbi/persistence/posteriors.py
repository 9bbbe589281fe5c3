"""Posteriors as trees: every kind that the engines give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pyro_turbovbi.batches import Batch
from pyro_turbovbi.engines.nuts import MCMCDiagnostics, MCMCPosterior
from pyro_turbovbi.engines.svi import SVI, GuidePosterior
from pyro_turbovbi.engines.turbo.linear_gaussian import GaussianPosterior, LinearGaussianPosterior
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.persistence.trees import Tree
from pyro_turbovbi.posterior import DiagonalPosterior, Posterior
from pyro_turbovbi.priors.base import Moments

#: Makes the Pyro guide of a lifted net.
MakeGuide = Callable[[BayesianNet], Any]


def dump_posterior(posterior: Posterior) -> Tree:
    """A posterior as a tree.

    Args:
        posterior: What an engine of this package gave.

    Raises:
        UnsupportedError: If it is of another class, or its guide is no `torch.nn.Module`.
    """
    for cls, kind, dump in _DUMPS:
        if type(posterior) is cls:
            return {"kind": kind} | dump(posterior)
    raise UnsupportedError(
        "the posterior cannot be stored",
        given=type(posterior).__name__,
        accepted="posteriors of the engines of this package",
    )


def restore_posterior(tree: Tree, bnn: BayesianNet, guide: MakeGuide | None) -> Posterior:
    """The posterior of a tree.

    Args:
        tree: What `dump_posterior` returned.
        bnn: The lifted net.
        guide: Makes the guide, where the fit was made with one of the user's own.

    Raises:
        InvalidArgumentError: If a guide is needed and not given.
        RuntimeError: If the guide does not fit.
    """
    if tree["kind"] == "guide":
        return _restore_guide(tree, bnn, guide)
    posterior: Posterior = _RESTORES[tree["kind"]](tree)
    return posterior


def _dump_diagonal(posterior: DiagonalPosterior) -> Tree:
    return {f.name: getattr(posterior, f.name) for f in dataclasses.fields(posterior)}


def _restore_diagonal(tree: Tree) -> DiagonalPosterior:
    return DiagonalPosterior(**{name: value for name, value in tree.items() if name != "kind"})


def _dump_gaussian(posterior: LinearGaussianPosterior) -> Tree:
    gaussian = posterior.gaussian
    return {
        "gaussian": {f.name: getattr(gaussian, f.name) for f in dataclasses.fields(gaussian)},
        "name": posterior.name,
        "dtype": torch.empty(0, dtype=posterior.dtype),  # tensors know how to store theirs
        "support": posterior.support,
        "hyperparameters": posterior.hyperparameters,
    }


def _restore_gaussian(tree: Tree) -> LinearGaussianPosterior:
    return LinearGaussianPosterior.of(
        gaussian=GaussianPosterior(**tree["gaussian"]),
        name=tree["name"],
        dtype=tree["dtype"].dtype,
        support=tree["support"],
        hyperparameters=tree["hyperparameters"],
    )


def _dump_mcmc(posterior: MCMCPosterior) -> Tree:
    found = posterior.diagnostics
    return {
        "draws": posterior.draws,
        "moments": {name: list(values) for name, values in posterior.moments().items()},
        "diagnostics": {f.name: getattr(found, f.name) for f in dataclasses.fields(found)},
        "support": posterior.support,
    }


def _restore_mcmc(tree: Tree) -> MCMCPosterior:
    found = tree["diagnostics"]
    return MCMCPosterior.of(
        draws=tree["draws"],
        moments={name: Moments(*values) for name, values in tree["moments"].items()},
        diagnostics=MCMCDiagnostics(
            r_hat=found["r_hat"],
            ess=found["ess"],
            divergences=tuple(found["divergences"]),
            step_sizes=tuple(found["step_sizes"]),
        ),
        support=tree["support"],
    )


def _dump_guide(posterior: GuidePosterior) -> Tree:
    guide, engine = posterior.guide, posterior.engine
    if not isinstance(guide, nn.Module):
        raise UnsupportedError(
            "the posterior cannot be stored: its guide keeps its parameters to itself",
            given=guide,
            accepted="a guide that is a torch.nn.Module, as all of Pyro's autoguides are",
        )
    return {
        "guide": engine.guide if isinstance(engine.guide, str) else None,
        "init_scale": engine.init_scale,
        "parameters": dict(guide.state_dict()),
        "example": [posterior.example.x, posterior.example.y],
        "support": posterior.support,
    }


def _restore_guide(tree: Tree, bnn: BayesianNet, guide: MakeGuide | None) -> GuidePosterior:
    chosen = tree["guide"] or guide
    if chosen is None:
        raise InvalidArgumentError(
            "the file holds a posterior under a guide of your own, which it cannot bring along",
            accepted="Fit.load(path, guide=build), with the function that engines.SVI(guide=build) "
            "was given",
        )
    engine = SVI(chosen, init_scale=tree["init_scale"])
    return engine.rebuilt(bnn, Batch(tree["example"]), tree["parameters"], tree["support"])


_DUMPS: tuple[tuple[type, str, Callable[[Any], Tree]], ...] = (
    (DiagonalPosterior, "diagonal", _dump_diagonal),
    (LinearGaussianPosterior, "gaussian", _dump_gaussian),
    (MCMCPosterior, "draws", _dump_mcmc),
    (GuidePosterior, "guide", _dump_guide),
)
_RESTORES: dict[str, Callable[[Tree], Posterior]] = {
    "diagonal": _restore_diagonal,
    "gaussian": _restore_gaussian,
    "draws": _restore_mcmc,
}
