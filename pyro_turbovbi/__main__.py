"""`python -m pyro_turbovbi`: see `pyro_turbovbi.cli`."""

import sys

from pyro_turbovbi.cli import main

if __name__ == "__main__":
    sys.exit(main())
