"""Genuine Pyro distributions: over supports, tensors of zeros and ones, and over weights."""

from pyro_turbovbi.distributions.block import BlockSupport
from pyro_turbovbi.distributions.collapsed import CollapsedPrecision, CollapsedThreeLayer
from pyro_turbovbi.distributions.custom import CustomSupport
from pyro_turbovbi.distributions.gated_markov import GatedMarkovSupport
from pyro_turbovbi.distributions.independent import IndependentSupport
from pyro_turbovbi.distributions.markov_chain import MarkovChainSupport
from pyro_turbovbi.distributions.markov_grid import MarkovGridSupport
from pyro_turbovbi.distributions.straight_through import SelectedGamma, StraightThroughBernoulli
from pyro_turbovbi.distributions.support import SupportDistribution, SupportPosterior

__all__ = [
    "BlockSupport",
    "CollapsedPrecision",
    "CollapsedThreeLayer",
    "CustomSupport",
    "GatedMarkovSupport",
    "IndependentSupport",
    "MarkovChainSupport",
    "MarkovGridSupport",
    "SelectedGamma",
    "StraightThroughBernoulli",
    "SupportDistribution",
    "SupportPosterior",
]
