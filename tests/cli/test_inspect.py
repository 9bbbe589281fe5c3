"""`inspect`: what it prints about files of both codings, and its one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pyro_turbovbi.compression.artifact import save
from pyro_turbovbi.compression.layers import InputSelect
from pyro_turbovbi.compression.quantisation import quantised
from tests.cli.helpers import ptv


def net() -> nn.Sequential:
    torch.manual_seed(0)
    selection = InputSelect.of(torch.tensor([1, 0, 1, 1]).bool())
    return nn.Sequential(selection, nn.Linear(3, 50), nn.ReLU(), nn.Linear(50, 2))


@pytest.mark.parametrize("coding", ["plain", "compact"])
def test_it_says_what_a_file_holds(coding: str, tmp_path: Path) -> None:
    rounded, steps = quantised(net(), {}, 1.0)
    scales = {"1.weight": torch.ones(50, 3)}
    size = save(rounded, tmp_path / "net.ptv", coding=coding, steps=steps, scales=scales)
    done = ptv("inspect", tmp_path / "net.ptv")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    version = 2 if coding == "plain" else 1
    assert lines[0].endswith(f"{size:,} bytes, {coding} coding, version {version}, checksum ok")
    assert lines[1] == "layers: InputSelect, Linear, ReLU, Linear"
    assert lines[2] == "standard deviations: 1.weight"
    (weight,) = (line for line in lines if line.startswith("1.weight"))
    assert "50x3" in weight
    assert ("quantised" in weight) == (coding == "compact")
    table = [line.split() for line in lines if line.startswith(("1.", "3.", "0.", "everything"))]
    assert len(table) == 6
    numbers = [row[2] if row[0] == "everything" else row[6] for row in table]
    assert sum(int(n.replace(",", "")) for n in numbers) == pytest.approx(size, abs=4)


def test_a_machine_reads_the_same(tmp_path: Path) -> None:
    size = save(net(), tmp_path / "net.ptv")
    found = json.loads(ptv("inspect", tmp_path / "net.ptv", "--json").stdout)
    assert (found["bytes"], found["coding"]) == (size, "plain")
    assert found["layers"] == ["InputSelect", "Linear", "ReLU", "Linear"]
    shapes = {tensor["name"]: tensor["shape"] for tensor in found["tensors"]}
    assert shapes["1.weight"] == [50, 3]


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"\x89PTV not a network at all")
    bad, missing = ptv("inspect", tmp_path / "bad"), ptv("inspect", tmp_path / "missing")
    assert bad.exit_code == missing.exit_code == 1
    assert bad.stderr.startswith("error: ")
    assert missing.stderr.startswith("error: the file cannot be read")
    assert len(bad.stderr.splitlines()) == len(missing.stderr.splitlines()) == 1
