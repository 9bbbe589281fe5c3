from __future__ import annotations

import getpass
import platform

import torch

from pyro_turbovbi.report.environment import environment


def test_versions_are_there_and_nobody_is_named() -> None:
    found = environment()
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["Python"] == platform.python_version()
    words = " ".join(found.values())
    assert platform.node() not in words.split()
    assert getpass.getuser() not in words.split()
