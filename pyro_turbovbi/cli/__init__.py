"""The command line, `ptv` and `python -m pyro_turbovbi`."""

from pyro_turbovbi.cli.app import main

__all__ = ["main"]
