"""The devices that a test runs on: the CPU, and a GPU where there is one."""

from __future__ import annotations

import pytest
import torch

_NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
#: Arguments of `pytest.mark.parametrize`.
DEVICES = ["cpu", pytest.param("cuda", marks=_NO_GPU)]
