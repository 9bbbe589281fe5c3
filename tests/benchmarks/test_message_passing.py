"""The benchmark of message passing at tiny sizes: what it writes, and what it checks of peers."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import message_passing as benchmark
from benchmarks.peers import message_passing as peers


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SECONDS", 0.0)
    monkeypatch.setattr(benchmark, "SHAPES", ((5, 7),))
    monkeypatch.setattr(peers, "SHAPE", (5, 7))


def test_it_writes_one_row_per_task_back_end_and_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, out = torch.get_num_threads(), tmp_path / "made" / "out.json"
    monkeypatch.setattr(benchmark, "peers", lambda threads: [])
    monkeypatch.setattr(sys, "argv", ["benchmark", "--small", "--out", str(out)])
    try:
        torch.set_num_threads(2)
        benchmark.main()
    finally:
        torch.set_num_threads(threads)
    result = json.loads(out.read_text())
    assert {"case", "protocol", "device", "rows"} <= set(result)
    assert len(result["rows"]) == 2 * 3 * 6
    full = [row["method"] for row in result["rows"] if "full posterior" in row["method"]]
    assert len(full) == 2 * 3 * 2
    assert all(("speed_up" in row) == (row["threads"] == 2) for row in result["rows"])


def test_speed_up_is_over_the_same_row_with_one_thread() -> None:
    row = {"method": "a", "shape": "s", "ns_per_variable": 4.0}
    rows: list[dict[str, object]] = [
        {**row, "threads": 1},
        {**row, "threads": 2, "ns_per_variable": 2.5},
        {**row, "threads": 1, "method": "b", "ns_per_variable": "absent: not installed"},
    ]
    benchmark.add_speed_up(rows)
    assert [entry.get("speed_up") for entry in rows] == [None, 1.6, None]


def test_the_cold_grid_holds_at_least_its_results() -> None:
    row = benchmark.cold_grid((256, 512))
    assert row["extra_memory"] > 0
    assert row["cold_seconds"] > 0


def test_both_files_name_the_same_peers() -> None:
    assert set(benchmark.PEERS) == set(peers.PEERS)


@pytest.mark.filterwarnings("ignore")  # of other packages, about each other
@pytest.mark.parametrize("name", peers.PEERS)
def test_installed_peers_find_our_posterior(name: str) -> None:
    peer = peers.PEERS[name]
    if importlib.util.find_spec(peer.module) is None:
        pytest.skip(f"{peer.module} is not installed")
    peers.check(peer, (4, 6))
    assert peers.rows(peer, threads=1)[0]["times_ours"] > 0


def test_a_peer_with_another_posterior_is_an_error() -> None:
    wrong = peers.Peer("wrong", "torch", lambda llr, sweeps: peers.Task(llr.sigmoid, lambda p: p))
    with pytest.raises(AssertionError, match="not close"):
        peers.rows(wrong, threads=1)


def test_a_peer_that_is_not_there_is_named_with_the_reason() -> None:
    def fails(llr: Tensor, sweeps: int) -> peers.Task:
        raise AttributeError("no such thing\nin this version")

    missing = peers.Peer("missing", "no_such_module", fails)
    broken = peers.Peer("broken", "torch", fails)
    reasons = [peers.rows(peer, threads=1)[0]["ns_per_variable"] for peer in (missing, broken)]
    assert reasons == [
        "absent: not installed",
        "absent: does not run (AttributeError: no such thing)",
    ]
    assert peers.rows(broken, threads=2) == []
