"""The command line, `ptv` and `python -m pyro_turbovbi`."""

from pyro_turbovbi.cli.start import main

__all__ = ["main"]
