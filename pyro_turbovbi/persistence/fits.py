"""A whole fit in one file."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from torch import nn

from pyro_turbovbi.compression.container import MAGIC
from pyro_turbovbi.compression.plain import KEY
from pyro_turbovbi.errors import ArtifactError, TurboVBIError
from pyro_turbovbi.persistence.container import metadata_of, pack, unpack
from pyro_turbovbi.persistence.files import read, write_atomically
from pyro_turbovbi.persistence.networks import dump_bayesian_net, restore_bayesian_net
from pyro_turbovbi.persistence.posteriors import MakeGuide, dump_posterior, restore_posterior
from pyro_turbovbi.persistence.trees import Tree
from pyro_turbovbi.result import Fit, History
from pyro_turbovbi.training import Training

#: What the file of a fit says that it is.
KIND = "fit"
_AS_THEY_ARE = ("engine_name", "elbo", "elbo_kind", "seconds")


def save_fit(fit: Fit, path: str | os.PathLike[str]) -> int:
    """Save a fit to one file, all or nothing; see `Fit.save`."""
    content = pack(KIND, _dump(fit))
    write_atomically(path, content)
    return len(content)


def load_fit(
    path: str | os.PathLike[str], net: nn.Module | None = None, *, guide: MakeGuide | None = None
) -> Fit:
    """Load a fit; see `Fit.load`."""
    content = read(path)
    if content.startswith(MAGIC) or KEY in metadata_of(content, KIND):
        raise ArtifactError(
            "the file holds no fit",
            given="a compressed network, which ptv.load reads",
            accepted="a file from Fit.save",
        )
    tree = unpack(KIND, content)
    try:
        return _restore(tree, net, guide)
    except TurboVBIError:
        raise
    except Exception as error:  # whatever a forged file leads to
        raise ArtifactError(f"the file does not describe a fit: {error}") from error


def _dump(fit: Fit) -> Tree:
    plain: dict[str, Any] = {name: getattr(fit, name) for name in _AS_THEY_ARE}
    return plain | {
        "model": dump_bayesian_net(fit.bnn),
        "posterior": dump_posterior(fit.posterior),
        "history": fit.history.plain(),
        "training": dataclasses.asdict(fit.training),
    }


def _restore(tree: Tree, net: nn.Module | None, guide: MakeGuide | None) -> Fit:
    bnn = restore_bayesian_net(tree["model"], net)
    return Fit(
        bnn=bnn,
        posterior=restore_posterior(tree["posterior"], bnn, guide),
        history=History.of_plain(tree["history"]),
        training=Training(**tree["training"]),
        **{name: tree[name] for name in _AS_THEY_ARE},
    )
