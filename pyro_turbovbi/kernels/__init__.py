"""Pure tensor functions for message passing on binary supports: no Pyro, no state."""

from pyro_turbovbi.kernels.chain import (
    ChainLaw,
    ChainMessages,
    ChainPosterior,
    chain_log_evidence,
    chain_messages,
    chain_posterior,
    check_finite,
)
from pyro_turbovbi.kernels.grid import (
    GridMessages,
    GridPosterior,
    GridTransitions,
    grid_posterior,
)
from pyro_turbovbi.kernels.independent import bernoulli_log_evidence

__all__ = [
    "ChainLaw",
    "ChainMessages",
    "ChainPosterior",
    "GridMessages",
    "GridPosterior",
    "GridTransitions",
    "bernoulli_log_evidence",
    "chain_log_evidence",
    "chain_messages",
    "chain_posterior",
    "check_finite",
    "grid_posterior",
]
