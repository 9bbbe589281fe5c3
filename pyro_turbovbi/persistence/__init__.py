"""Files: saved fits and the checkpoints of a training, without pickle."""

from pyro_turbovbi.persistence.checkpoints import Checkpoints

__all__ = ["Checkpoints"]
