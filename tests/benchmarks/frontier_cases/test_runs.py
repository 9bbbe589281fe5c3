"""Runs are trained once, kept with their recipe and go on where they stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.frontier_cases import methods, runs
from benchmarks.frontier_cases.cases import parts, pretrained
from benchmarks.frontier_cases.magnitude import Dense, Magnitude
from benchmarks.frontier_cases.recipes import FULL
from benchmarks.frontier_cases.runs import Run, result_of, slug, trained
from benchmarks.frontier_cases.training import Task, Trained
from tests.benchmarks.frontier_cases import tiny


@pytest.fixture(autouse=True)
def _case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiny.install(monkeypatch, tmp_path)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of the dense trainings so far."""
    seeds: list[int] = []
    train = Dense.train

    def counted(self: Dense, task: Task) -> Trained:
        seeds.append(task.seed)
        return train(self, task)

    monkeypatch.setattr(Dense, "train", counted)
    return seeds


@pytest.mark.parametrize(
    "method", ["magnitude, 20 %", "sparse VD", "BC-GNJ", "BC-GHS", "mean field, from active", FULL]
)
def test_a_run_of_every_kind(method: str) -> None:
    found = result_of(Run(tiny.NAME, method))
    assert 0 <= found["error_percent"] <= 100
    assert found["error_percent"] == pytest.approx(found["masked_error_percent"])
    assert 0 <= found["weights_left_percent"] <= 100
    assert found["bytes"] > 0
    assert found["cpu_seconds"] > 0
    assert found["not_reordered"]["clusters"] >= found["clusters"]
    assert found["environment"]["torch"] == torch.__version__
    assert found["recipe"]["epochs"] == [1, 2]
    assert json.loads(Run(tiny.NAME, method).path.read_text()) == found


def test_a_kept_run_is_not_trained_again(trainings: list[int]) -> None:
    run = Run(tiny.NAME, methods.DENSE, seed=1)
    first = result_of(run)
    assert result_of(run) == first
    run.path.unlink()  # the network is still there: measured, with the time that it took
    assert result_of(run) == first
    assert result_of(run, again=True) == first
    assert trainings == [1]
    result_of(Run(tiny.NAME, methods.DENSE, seed=2))
    assert trainings == [1, 2]


def test_another_recipe_is_another_run(
    trainings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tiny.NAME, methods.DENSE)
    result_of(run)
    monkeypatch.setattr(methods, "methods_of", lambda case: {methods.DENSE: Dense(lr=0.5)})
    assert result_of(run)["recipe"]["settings"]["lr"] == 0.5
    assert trainings == [0, 0]


def test_a_kept_network_is_the_trained_one() -> None:
    kept = [trained(tiny.NAME, "sparse VD", 0) for _ in range(2)]
    for name, value in kept[0].net.state_dict().items():
        torch.testing.assert_close(kept[1].net.state_dict()[name], value, rtol=0, atol=0)
    assert kept[0].masks.keys() == kept[1].masks.keys()
    assert all(torch.equal(kept[1].masks[n], mask) for n, mask in kept[0].masks.items())
    assert all(torch.equal(kept[1].scales[n], s) for n, s in kept[0].scales.items())


def test_all_methods_start_from_the_same_network() -> None:
    starts = {result_of(Run(tiny.NAME, m))["start"] for m in (methods.DENSE, "magnitude, 50 %")}
    assert len(starts) == 1
    first, again = pretrained(tiny.NAME, 0, "final"), pretrained(tiny.NAME, 0, "final")
    assert torch.equal(first[0].weight, again[0].weight)  # type: ignore[index]


def test_tuning_never_sees_a_test_point() -> None:
    train, held_out = parts(tiny.NAME, "tuning")
    everything = {tuple(row.tolist()) for row in tiny.points(120, 0).x}
    assert len(train.x) == 80
    assert {tuple(row.tolist()) for row in [*train.x, *held_out.x]} == everything
    found = result_of(Run(tiny.NAME, "magnitude: 2", stage="tuning"))
    assert found["recipe"]["stage"] == "tuning"
    assert Run(tiny.NAME, "magnitude: 2", stage="tuning").path.parent.name == "tuning"


def test_no_method_has_fewer_candidates_than_ours() -> None:
    assert min(map(len, methods.CANDIDATES.values())) == 4
    assert len(methods.CANDIDATES["ours, gates + order"]) == 4
    for case, chosen in methods.CHOSEN.items():
        for method, candidate in chosen.items():
            assert methods.tuned(case, method) == methods.CANDIDATES[method][candidate]
    assert methods.tuned("another", methods.SPARSE_VD) == methods.CANDIDATES[methods.SPARSE_VD]["2"]


def test_the_chosen_optimiser_holds_at_all_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.CHOSEN, tiny.NAME, {methods.MAGNITUDE: "4"})
    chosen = methods.methods_of(tiny.NAME)["magnitude, 20 %"]
    assert chosen == Magnitude(0.2, lr=3e-3, scale=0.3)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"a": (1.9, 2.0), "b": (1.8, 3.0)}, "a"),  # fewer weights
        ({"a": (2.1, 2.0), "b": (1.8, 3.0)}, "b"),  # a errs too often
        ({"a": (2.1, 2.0), "b": (2.2, 1.0)}, "a"),  # both do: the lower error
        ({"a": (1.9, 2.0), "b": (1.8, 2.01)}, "b"),  # as good as equally many
    ],
)
def test_the_choice(figures: dict[str, tuple[float, float]], expected: str) -> None:
    named = {
        name: {"error_percent": error, "weights_left_percent": left}
        for name, (error, left) in figures.items()
    }
    assert methods.choice(named, target=2.0) == expected


def test_teachers_are_there_for_the_others_too(tmp_path: Path) -> None:
    plain, taught = (result_of(Run(tiny.NAME, f"dense Adam{end}")) for end in ("", " + teachers"))
    assert plain["start"] == taught["start"]
    assert taught["recipe"]["settings"]["teachers"][0] > 0
    assert taught["teacher_seconds"] > 0
    assert len(list((tmp_path / "cache" / "teachers").glob("*.safetensors"))) == 1
    names = methods.methods_of(tiny.NAME)
    assert {"magnitude + teachers, 20 %", "sparse VD + teachers"} <= names.keys()


def test_names_become_file_names() -> None:
    assert slug("ours, gates + order") == "ours_gates_order"
    assert slug("magnitude, 1.4 %") == "magnitude_1.4"
    every = [*methods.methods_of(tiny.NAME), *methods.ablations_of(tiny.NAME)]
    assert len({slug(name) for name in every}) == len(every)
    assert runs.measured_recipe(Run(tiny.NAME, FULL))["settings"]["components"]
