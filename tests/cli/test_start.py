"""Ctrl-C while the command line is being imported; see `test_interruption` for the rest."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any

import pytest

from pyro_turbovbi.cli import main
from tests.cli.test_interruption import NOTHING, stopping


def test_an_import_that_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the command line itself is imported, and while a command's module is."""
    usual = builtins.__import__

    def without(missing: str) -> Callable[..., Any]:
        return lambda name, *rest: stopping() if name == missing else usual(name, *rest)

    for name in ("pyro_turbovbi.cli.app", "pyro_turbovbi.cli.inspect"):
        with monkeypatch.context() as patch:
            patch.setattr(builtins, "__import__", without(name))
            assert main(["inspect", "net.ptv"]) == 130
        assert capsys.readouterr().err == NOTHING
