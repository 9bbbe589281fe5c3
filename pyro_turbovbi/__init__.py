"""Structured Bayesian compression of neural networks in Pyro.

Lift a `torch.nn.Module` under a three-layer prior (support -> precision -> weight), fit it with
Turbo-VBI or with stock Pyro SVI, compare them, and take home a smaller network::

    import pyro_turbovbi as ptv
    from pyro_turbovbi import engines, likelihoods, priors, supports

    prior = priors.ThreeLayer(support=supports.Chain())
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    turbo = ptv.fit(bnn, train, engine=engines.Turbo(), epochs=30)
    small = turbo.compress(train)

Public names are imported when they are first used: the command line answers `--help` without torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_turbovbi import (
        callbacks,
        distributions,
        engines,
        errors,
        kernels,
        likelihoods,
        priors,
        report,
        supports,
    )
    from pyro_turbovbi.compression import (
        Compressed,
        LoadedPosterior,
        Regularity,
        load,
        load_posterior,
    )
    from pyro_turbovbi.compression.regularity import regularity
    from pyro_turbovbi.diagnostics import Comparison, compare
    from pyro_turbovbi.distillation import soft_targets
    from pyro_turbovbi.engines import TurboVBI
    from pyro_turbovbi.errors import TurboVBIError
    from pyro_turbovbi.fit import fit, fit_all
    from pyro_turbovbi.lift import BayesianNet, lift
    from pyro_turbovbi.persistence import Checkpoints
    from pyro_turbovbi.posterior import Prediction
    from pyro_turbovbi.recipe import Recipe
    from pyro_turbovbi.result import EpochRecord, Fit, History

__version__ = "0.1.0"

__all__ = [
    "BayesianNet",
    "Checkpoints",
    "Comparison",
    "Compressed",
    "EpochRecord",
    "Fit",
    "History",
    "LoadedPosterior",
    "Prediction",
    "Recipe",
    "Regularity",
    "TurboVBI",
    "TurboVBIError",
    "callbacks",
    "compare",
    "distributions",
    "engines",
    "errors",
    "fit",
    "fit_all",
    "kernels",
    "lift",
    "likelihoods",
    "load",
    "load_posterior",
    "priors",
    "regularity",
    "report",
    "soft_targets",
    "supports",
]

_HOMES = {
    "Compressed": "compression",
    "LoadedPosterior": "compression",
    "Regularity": "compression",
    "load": "compression",
    "load_posterior": "compression",
    "regularity": "compression.regularity",
    "Comparison": "diagnostics",
    "compare": "diagnostics",
    "soft_targets": "distillation",
    "TurboVBI": "engines",
    "TurboVBIError": "errors",
    "fit": "fit",
    "fit_all": "fit",
    "BayesianNet": "lift",
    "lift": "lift",
    "Checkpoints": "persistence",
    "Prediction": "posterior",
    "Recipe": "recipe",
    "EpochRecord": "result",
    "Fit": "result",
    "History": "result",
}
"""Modules of the classes and functions; all other public names are modules themselves."""


class _Package(ModuleType):
    """This package: a name that is asked of it is imported, and kept."""

    def __getattr__(self, name: str) -> Any:
        if name in _HOMES:
            value = getattr(importlib.import_module(f"{self.__name__}.{_HOMES[name]}"), name)
            setattr(self, name, value)
            return value
        full_name = f"{self.__name__}.{name}"
        if not name.startswith("_"):
            try:
                return importlib.import_module(full_name)
            except ModuleNotFoundError as error:
                if error.name != full_name:
                    raise
        message = f"module {self.__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the module `fit` must not put it in place of the function `fit`.
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return list(__all__)


sys.modules[__name__].__class__ = _Package
