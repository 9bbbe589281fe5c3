"""One page about a fit: what is left of the network, what it costs, how good and how sure it is."""

from pyro_turbovbi.report.network import Costs, SmallNetwork
from pyro_turbovbi.report.page import Report, make_report

__all__ = ["Costs", "Report", "SmallNetwork", "make_report"]
