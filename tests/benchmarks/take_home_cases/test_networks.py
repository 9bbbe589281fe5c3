"""Which networks there are, and what is pruned where none is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.frontier_cases import runs
from benchmarks.frontier_cases.cases import parts
from benchmarks.frontier_cases.methods import DENSE
from benchmarks.frontier_cases.recipes import FULL
from benchmarks.frontier_cases.runs import Run, trained
from benchmarks.take_home_cases import networks
from benchmarks.take_home_cases.networks import Kept, Pruned, pruned_here, usual
from pyro_turbovbi.compression import masked
from tests.benchmarks.frontier_cases import tiny

MAGNITUDE = "magnitude, 20 %"


@pytest.fixture(autouse=True)
def _case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny.install(monkeypatch, tmp_path)


def test_what_is_not_kept_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_train", lambda _: pytest.fail("trained"))
    network = Kept(Run(tiny.NAME, FULL, 1))
    assert network.compressed() is None
    command = f'python benchmarks/frontier.py --case tiny --method "{FULL}" --seed 1'
    assert network.advice() == command
    assert Kept(Run(tiny.NAME, "without teachers", 1)).advice().endswith("--seed 1 --ablation")
    assert Kept(Run(tiny.NAME, DENSE, 0, epochs=2)).advice().endswith("--seed 0 --epochs 2")
    assert Pruned(Run(tiny.NAME, DENSE), Run(tiny.NAME, FULL)).compressed() is None


def test_a_kept_network_computes_what_was_trained() -> None:
    result, x = trained(tiny.NAME, MAGNITUDE, 0), parts(tiny.NAME, "final")[1].x
    small = Kept(Run(tiny.NAME, MAGNITUDE)).compressed()
    assert small is not None
    expected = masked(result.net, result.masks)(x)
    torch.testing.assert_close(small.module(x), expected, rtol=1e-4, atol=1e-5)


def test_the_usual_methods() -> None:
    names = usual(tiny.NAME)
    assert names[0] == DENSE
    assert {FULL, "without teachers", "torch-pruning, 50 %"} <= set(names)
    assert not any(name.startswith(("magnitude", "sparse VD")) for name in names)


def test_pruned_here_unless_the_frontier_has_one() -> None:
    dense = Run(tiny.NAME, DENSE, 2)
    assert pruned_here(tiny.NAME, 2) == Pruned(dense, Run(tiny.NAME, FULL, 2))
    for method in ("without teachers", FULL, "torch-pruning, 50 %"):
        run = Run(tiny.NAME, method, 2)
        run.cache.parent.mkdir(parents=True, exist_ok=True)
        run.cache.touch()
        ours = None if method.startswith("torch-pruning") else Pruned(dense, run)
        assert pruned_here(tiny.NAME, 2) == ours


def test_pruning_to_the_size_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_pruning")
    for method in (DENSE, MAGNITUDE):
        trained(tiny.NAME, method, 0)
    like = Kept(Run(tiny.NAME, MAGNITUDE)).compressed()
    pruned = Pruned(Run(tiny.NAME, DENSE), Run(tiny.NAME, MAGNITUDE))
    first = pruned.compressed()
    assert like is not None
    assert first is not None
    assert 0 < first.report.parameters <= like.report.parameters
    monkeypatch.setattr(networks, "optimise", lambda *_, **__: pytest.fail("trained again"))
    again = pruned.compressed()
    assert again is not None
    x = parts(tiny.NAME, "final")[1].x
    torch.testing.assert_close(again.module(x), first.module(x), rtol=0, atol=0)
    assert pruned.recipe()["like"] == Run(tiny.NAME, MAGNITUDE).recipe()
