"""Structured Bayesian compression of neural networks in Pyro.

Lift a `torch.nn.Module` under a three-layer prior (support -> precision -> weight), fit it with
Turbo-VBI or with stock Pyro SVI, compare them, and take home a smaller network::

    import pyro_turbovbi as ptv
    from pyro_turbovbi import engines, likelihoods, priors, supports

    prior = priors.ThreeLayer(support=supports.Chain())
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    turbo = ptv.fit(bnn, train, engine=engines.Turbo(), epochs=30)
    small = turbo.compress(train)
"""

from pyro_turbovbi import distributions, engines, errors, kernels, likelihoods, priors, supports
from pyro_turbovbi.compression import (
    Compressed,
    LoadedPosterior,
    Regularity,
    load,
    load_posterior,
    regularity,
)
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
    "soft_targets",
    "supports",
]
