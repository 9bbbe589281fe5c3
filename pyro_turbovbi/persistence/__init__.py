"""Files: saved fits and the checkpoints of a training, without pickle."""
