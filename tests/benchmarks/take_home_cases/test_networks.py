"""Which networks there are, and what is pruned where none is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.frontier_cases import cases, runs
from benchmarks.frontier_cases.cases import parts
from benchmarks.frontier_cases.methods import DENSE
from benchmarks.frontier_cases.recipes import FULL
from benchmarks.frontier_cases.runs import Run, trained
from benchmarks.take_home_cases import networks
from benchmarks.take_home_cases.networks import Kept, Pruned, Start, every, usual
from pyro_turbovbi.compression import masked
from tests.benchmarks.frontier_cases import tiny

MAGNITUDE, PRUNED = "magnitude, 20 %", "torch-pruning, 50 %"
OURS = f"{FULL}, small"


@pytest.fixture(autouse=True)
def _case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny.install(monkeypatch, tmp_path)


def run(method: str, seed: int = 0) -> Kept:
    return Kept(Run(tiny.NAME, method, seed))


def put_there(network: Kept) -> None:
    """A file in the place of a network."""
    network.run.cache.parent.mkdir(parents=True, exist_ok=True)
    network.run.cache.touch()


def test_what_is_not_kept_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_train", lambda _: pytest.fail("trained"))
    monkeypatch.setattr(cases, "plain_epochs", lambda *_: pytest.fail("trained"))
    for network in (run(FULL, 1), Start(tiny.NAME, 1), Pruned(run(DENSE), run(FULL))):
        assert network.compressed() is None
    command = f'python benchmarks/frontier.py --case tiny --method "{FULL}" --seed 1'
    assert run(FULL, 1).advice() == command
    assert run("without teachers").advice().endswith("--seed 0 --ablation")
    assert Kept(Run(tiny.NAME, DENSE, 0, epochs=2)).advice().endswith("--seed 0 --epochs 2")
    pruned = Pruned(Start(tiny.NAME, 1), run(FULL, 1))
    assert command in pruned.advice()
    assert "bench-peers" in pruned.advice()


def test_a_kept_network_computes_what_was_trained() -> None:
    result, x = trained(tiny.NAME, MAGNITUDE, 0), parts(tiny.NAME, "final")[1].x
    small = run(MAGNITUDE).compressed()
    assert small is not None
    expected = masked(result.net, result.masks)(x)
    torch.testing.assert_close(small.module(x), expected, rtol=1e-4, atol=1e-5)


def test_the_start_is_the_network_before_any_method() -> None:
    net, x = cases.pretrained(tiny.NAME, 1, "final"), parts(tiny.NAME, "final")[1].x
    small = Start(tiny.NAME, 1).compressed()
    assert small is not None
    assert small.report.weights_left == 1
    torch.testing.assert_close(small.module(x), net(x), rtol=1e-4, atol=1e-5)


def test_the_usual_networks() -> None:
    dense, start, *others, large, small = usual(tiny.NAME, 2)
    assert (dense, start) == (run(DENSE, 2), Start(tiny.NAME, 2))
    assert {FULL, OURS, PRUNED} <= {network.method for network in others}
    assert not any(network.method.startswith(("magnitude", "sparse VD")) for network in others)
    first, *_, last = (network for network in others if network.method.startswith(FULL))
    assert (large, small) == (Pruned(start, first), Pruned(start, last))


def pruned_here(seed: int = 0) -> list[Pruned]:
    return [network for network in usual(tiny.NAME, seed) if isinstance(network, Pruned)]


def test_what_is_kept_decides_what_is_pruned_here() -> None:
    put_there(run(OURS))
    assert pruned_here() == [Pruned(Start(tiny.NAME, 0), run(OURS))]
    put_there(run(DENSE))
    assert Start(tiny.NAME, 0) not in usual(tiny.NAME, 0)
    assert pruned_here() == [Pruned(run(DENSE), run(OURS))]
    put_there(run(FULL))
    assert pruned_here() == [Pruned(run(DENSE), run(FULL)), Pruned(run(DENSE), run(OURS))]
    put_there(run(FULL, 1))
    assert pruned_here() == [Pruned(run(DENSE), run(FULL))]


def test_every_network_can_be_in_the_tables() -> None:
    networks_of_a_seed = list(every(tiny.NAME, 1))
    assert len(set(networks_of_a_seed)) == len(networks_of_a_seed)
    put_there(run(OURS, 1))
    for there in (*usual(tiny.NAME, 1), run(MAGNITUDE, 1), run("mean field, from active", 1)):
        assert there in networks_of_a_seed


def test_pruning_to_the_size_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_pruning")
    trained(tiny.NAME, MAGNITUDE, 0)
    like = run(MAGNITUDE).compressed()
    pruned = Pruned(Start(tiny.NAME, 0), run(MAGNITUDE))
    first = pruned.compressed()
    assert like is not None
    assert first is not None
    assert 0 < first.report.parameters <= like.report.parameters
    monkeypatch.setattr(networks, "optimise", lambda *_, **__: pytest.fail("trained again"))
    again = pruned.compressed()
    assert again is not None
    x = parts(tiny.NAME, "final")[1].x
    torch.testing.assert_close(again.module(x), first.module(x), rtol=0, atol=0)
    assert pruned.recipe()["like"] == run(MAGNITUDE).recipe()
