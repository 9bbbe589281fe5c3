"""Training in several processes, connected over the loopback, against training in one."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pyro_turbovbi as ptv
from pyro_turbovbi import distributed, errors
from pyro_turbovbi.distributed import ALONE, World
from pyro_turbovbi.errors import DistributedError, InvalidArgumentError, StorageError
from tests import together
from tests.cli.helpers import MLP, write_table
from tests.pages import DOCS, ROOT, run_page

#: Relative difference that is left to the order of sums.
EXACT, SINGLE = 1e-10, 1e-5
SIZE = 2

gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="needs torch.distributed with Gloo",
)


def torchrun(*arguments: object, restarts: int = 0, cwd: Path = ROOT) -> Any:
    """Run a module in two processes that talk over the loopback."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment |= {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", f"--nproc-per-node={SIZE}",
        f"--max-restarts={restarts}", "-m", *map(str, arguments),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        stdout, stderr = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.terminate()  # unlike being killed, it then ends its processes
        stdout, stderr = process.communicate(timeout=60)
        raise AssertionError(f"torchrun hangs:\n{stdout}\n{stderr}") from None
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    """Tensors agree, relative to the size of each."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        difference = (found[name].double() - value.double()).norm()
        assert float(difference) <= tolerance * float(value.double().norm()), name


@pytest.fixture
def double() -> Iterator[None]:
    """Trainings in double precision: what is left is not rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], str]:
    """What both processes have seen of all cases of `together`, and what they have printed."""
    place = tmp_path_factory.mktemp("together")
    done = torchrun("tests.together", place)
    assert done.returncode == 0, done.stderr
    return place, [torch.load(place / f"{rank}.pt") for rank in range(SIZE)], done.stderr


@gloo
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", together.SAME)
def test_two_processes_find_what_one_does(name: str, ran: Any) -> None:
    _, found, _ = ran
    assert_close(found[0][name], together.seen(together.SAME[name]()), EXACT)


@gloo
def test_in_single_precision_too(ran: Any) -> None:
    _, found, _ = ran
    wanted = together.seen(together.SAME["chain"]())
    assert_close(found[0]["single precision"], wanted, SINGLE)


@gloo
def test_all_processes_get_the_same_bits(ran: Any) -> None:
    _, (first, second), _ = ran
    assert [first["world"], second["world"]] == [[0, SIZE], [1, SIZE]]
    assert first["told"]["a"][0] == 1
    for name in (*together.SAME, "dropout", "single precision"):
        for what, value in first[name].items():
            assert torch.equal(value, second[name][what]), (name, what)
    assert "turbo 3/3" in first["bar"]
    assert second["bar"] == "", "the first process alone shows how far it is"


@gloo
@pytest.mark.usefixtures("double")
def test_one_process_goes_on_where_two_were_interrupted(ran: Any) -> None:
    place, _, _ = ran
    whole = together.seen(together.resumed(None))
    assert_close(together.seen(together.resumed(place / "checkpoints", resume=True)), whole, EXACT)


MESSAGES = {
    "svi": "UnsupportedError: engine 'svi (auto_normal)' cannot train in several processes; given: "
    '2 processes; accepted: engines.Turbo() with weights="diagonal", or one process',
    "map": "UnsupportedError: engine 'map' cannot train in several processes",
    "nuts": "UnsupportedError: engine 'nuts' cannot train in several processes",
    "exact": "UnsupportedError: engine 'turbo' cannot train in several processes",
    "broken": "NumericalError: epoch 1: the loss is not finite at step 0; given: nan, by the "
    "likelihood",
    "unlike": "DistributedError: the processes are not doing the same training: start weights "
    "differ; given: process 1 unlike process 0",
    "drifting": "DistributedError: the processes are not doing the same training: random states "
    "differ; given: process 1 unlike process 0",
    "failing": "StorageError: no room; given: {'left': 0}; accepted: some",
}


@gloo
@pytest.mark.parametrize("name", MESSAGES)
def test_an_error_of_one_process_is_one_of_all(name: str, ran: Any) -> None:
    _, found, stderr = ran
    for seen in found:
        assert seen["errors"][name].startswith(MESSAGES[name])
    assert stderr.count("Training goes on from step 0, with learning rates 0.1 times") == 1


@gloo
def test_a_process_that_is_gone_is_noticed(ran: Any) -> None:
    _, (first, second), _ = ran
    expected = "DistributedError: the other processes of this training cannot be reached; given: "
    assert first["errors"]["deserted"].startswith(expected)
    assert "deserted" not in second["errors"]


RECIPE = (
    MLP
    + """\
data: {kind: csv_file, path: table.csv, target: price}
likelihood: {kind: Gaussian}
prior: {kind: ThreeLayer}
engine: {call: "tests.killing:Killing", arguments: {victim: VICTIM}}
epochs: 4
batch_size: 8
"""
)


@gloo
@pytest.mark.slow
@pytest.mark.parametrize("victim", range(SIZE))
def test_torchrun_goes_on_when_a_process_was_killed(victim: int, tmp_path: Path) -> None:
    """The one that writes, or the other one, in the middle of an epoch."""
    write_table(tmp_path / "table.csv")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("VICTIM", str(victim)))
    done = torchrun("pyro_turbovbi", "fit", "recipe.yaml", restarts=2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(exitcode: -9)" in done.stderr
    assert done.stdout.count("turbo: 4 of 4 epochs") == 1, "said by the first process alone"
    whole = ptv.Recipe.load(recipe).fit(progress=False)
    kept = ptv.Fit.load(tmp_path / "runs" / "recipe" / "fit.safetensors")
    assert_close(together.seen(kept), together.seen(whole), SINGLE)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["recipe"]
    assert not (tmp_path / "runs" / "recipe" / "checkpoints").exists()


def test_one_process_alone_is_the_trivial_world() -> None:
    assert World.current() == ALONE == World()
    assert distributed.init() == ALONE
    assert ALONE.alone
    assert ALONE.first
    assert distributed.is_first()
    assert not distributed.restarted()
    x, y = torch.randn(5, 2), torch.arange(5)
    part = ALONE.part((x, y))
    assert part.arguments == (x, y)
    assert (part.share, part.divided) == (1.0, False)
    total = torch.ones(2)
    ALONE.add(total)
    assert total.tolist() == [1.0, 1.0]
    assert ALONE.first_one(lambda: 3) == 3
    assert ALONE.owners({"a": 3, "b": 4}) == {"a": 0, "b": 0}
    ALONE.raise_first(None)
    ALONE.require_same({"a": "b"}, "nothing")
    with pytest.raises(StorageError, match="no room"):
        ALONE.raise_first(StorageError("no room"))
    with distributed.session() as world:
        assert world == ALONE


@pytest.mark.parametrize(("rows", "size"), [(7, 3), (3, 3), (64, 5)])
def test_parts_make_up_the_batch(rows: int, size: int) -> None:
    x, y = {"a": torch.randn(rows, 2), "b": torch.randn(rows)}, torch.arange(rows)
    parts = [World(rank, size).part((x, y, "other", {"y": y, "n": 3})) for rank in range(size)]
    assert torch.equal(torch.cat([part.arguments[1] for part in parts]), y)
    for name, value in x.items():
        assert torch.equal(torch.cat([part.arguments[0][name] for part in parts]), value)
    for part in parts:
        assert part.arguments[3]["n"] == 3
        assert torch.equal(part.arguments[3]["y"], part.arguments[1])
    lengths = [len(part.arguments[1]) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert all(part.divided and part.arguments[2] == "other" for part in parts)
    assert [part.share for part in parts] == [length / rows for length in lengths]


def test_a_batch_of_fewer_rows_than_processes_is_not_divided() -> None:
    y = torch.arange(2)
    for rank in range(3):
        part = World(rank, 3).part((y,))
        assert part.arguments[0] is y
        assert (part.share, part.divided) == (1.0 / 3.0, False)


def test_random_numbers_of_a_process_are_its_own() -> None:
    drawn = []
    for rank in range(2):
        torch.manual_seed(0)
        world = World(rank, 2)
        with world.apart(world.part((torch.zeros(4),)), torch.device("cpu"), step=3):
            drawn.append(torch.randn(3))
        assert torch.equal(torch.randn(3), torch.randn(3, generator=torch.manual_seed(0)))
    assert not torch.equal(*drawn)


def test_work_is_divided_by_size() -> None:
    owners = World(0, 2).owners({"a": 5, "b": 10, "c": 4, "d": 2})
    assert owners == {"b": 0, "a": 1, "c": 1, "d": 1}
    assert World(1, 2).owners({"d": 2, "c": 4, "b": 10, "a": 5}) == owners


def test_processes_that_are_not_connected_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert not distributed.is_first()
    message = r"they are not connected; given: WORLD_SIZE=2; accepted: .*distributed\.init\(\)"
    with pytest.raises(DistributedError, match=message):
        World.current()
    with pytest.raises(DistributedError, match="are not connected"):
        together.train(together.mlp())
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert World.current() == ALONE


@gloo
def test_processes_that_do_not_come_are_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DistributedError, match="cannot be reached"):
        distributed.init(timeout=0.1)
    with pytest.raises(InvalidArgumentError, match="timeout is out of range; given: 0"):
        distributed.init(timeout=0.0)


def test_the_page_on_several_processes_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(DOCS / "distributed.md", {"epochs=30": "epochs=1, progress=False"})
    assert (tmp_path / "digits.ptv").stat().st_size > 0


def test_a_restart_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not distributed.restarted()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert distributed.restarted()


def test_an_error_travels() -> None:
    cause = OSError(28, "No space left on device")
    error = StorageError.of("a file cannot be written", Path("here"), cause)
    same = pickle.loads(pickle.dumps(distributed.portable(error)))
    assert isinstance(same, StorageError)
    assert (str(same), same.given) == (str(error), "here")
    strange = errors.ShapeError("no", given=lambda: None, accepted=iter([1, 2]))
    assert str(pickle.loads(pickle.dumps(distributed.portable(strange)))).endswith("1, 2")
