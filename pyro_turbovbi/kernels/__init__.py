"""Pure tensor functions for message passing on binary supports: no Pyro, no state."""

from pyro_turbovbi.kernels.backends import BackendName, SlowMessagePassingWarning
from pyro_turbovbi.kernels.blocks import pool_blocks, spread_blocks
from pyro_turbovbi.kernels.chain import (
    ChainPosterior,
    chain_log_evidence,
    chain_posterior,
    check_finite,
)
from pyro_turbovbi.kernels.gated import GatedPosterior, GatedTransitions, gated_posterior
from pyro_turbovbi.kernels.grid import GridPosterior, GridTransitions, grid_posterior
from pyro_turbovbi.kernels.independent import bernoulli_log_evidence
from pyro_turbovbi.kernels.law import ChainLaw
from pyro_turbovbi.kernels.reference import ChainMessages, chain_messages
from pyro_turbovbi.kernels.unit_gates import (
    GatedWeight,
    RowPosterior,
    UnitGatesPosterior,
    unit_gates_posterior,
)

__all__ = [
    "BackendName",
    "ChainLaw",
    "ChainMessages",
    "ChainPosterior",
    "GatedPosterior",
    "GatedTransitions",
    "GatedWeight",
    "GridPosterior",
    "GridTransitions",
    "RowPosterior",
    "SlowMessagePassingWarning",
    "UnitGatesPosterior",
    "bernoulli_log_evidence",
    "chain_log_evidence",
    "chain_messages",
    "chain_posterior",
    "check_finite",
    "gated_posterior",
    "grid_posterior",
    "pool_blocks",
    "spread_blocks",
    "unit_gates_posterior",
]
