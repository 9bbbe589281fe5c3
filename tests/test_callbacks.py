"""Callbacks of `fit`, TensorBoard by a stand-in for its writer."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import callbacks, engines, likelihoods, priors
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError

DATA = torch.randn(12, 3), torch.arange(12) % 2


class StandIn:
    """Keeps what TensorBoard's writer would write."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.scalars: list[tuple[str, float, int]] = []
        self.flushed = self.closed = 0

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.scalars.append((tag, scalar_value, global_step))

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed += 1


def fit(*given: Any, epochs: int = 2, **arguments: Any) -> ptv.Fit:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.Normal(1.0))
    return ptv.fit(
        bnn,
        DATA,
        engine=engines.MAP(),
        epochs=epochs,
        callbacks=given,
        progress=False,
        **arguments,
    )


def test_every_epoch_is_written_at_once() -> None:
    writer = StandIn()
    with callbacks.TensorBoard(writer=writer) as board:
        result = fit(board)
        assert writer.flushed == 2
        assert not writer.closed
    assert writer.closed == 1
    expected = [
        (tag, value, record.epoch)
        for record in result.history
        for tag, value in {
            "elbo": record.elbo,
            "seconds": record.seconds,
            "left/all": 1.0,
            "left/0.weight": 1.0,
            "left/2.weight": 1.0,
        }.items()
    ]
    assert writer.scalars == expected


def test_the_share_of_all_weights_counts_each_weight_once() -> None:
    writer = StandIn()
    record = ptv.EpochRecord(3, 5.0, 0.5, {"0.weight": 0.25, "2.weight": 1.0})
    result = fit(epochs=1)
    callbacks.TensorBoard(writer=writer)(record, lambda: result)
    scalars = {tag: value for tag, value, _ in writer.scalars}
    assert scalars["left/all"] == pytest.approx((0.25 * 12 + 1.0 * 8) / 20)
    assert scalars["elbo"] == -5.0
    assert {step for *_, step in writer.scalars} == {3}


def test_torch_makes_the_writer_and_later_epochs_of_an_interrupted_training_go(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = ModuleType("torch.utils.tensorboard")
    made: list[StandIn] = []

    def summary_writer(**arguments: Any) -> StandIn:
        made.append(StandIn(**arguments))
        return made[-1]

    module.SummaryWriter = summary_writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    board = callbacks.TensorBoard(tmp_path / "logs")
    assert not made, "no file before the first epoch"
    board.close()
    fit(board)
    (writer,) = made
    assert writer.arguments == {"log_dir": str(tmp_path / "logs"), "purge_step": 1}


def test_without_tensorboard_the_error_comes_before_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    importer = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "tensorboard":
            raise ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard")
        return importer(name, *rest)

    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedError, match=r"tensorboard'; accepted: pip install tensorboard"):
        callbacks.TensorBoard()


def test_supports_are_kept_at_the_chosen_epochs() -> None:
    supports = callbacks.Supports([2, 1, 9])
    result = fit(supports)
    assert list(supports.stages) == ["epoch 1", "epoch 2"]
    for name, probs in supports.stages["epoch 2"].items():
        assert torch.equal(probs, result.support_probs()[name])


@pytest.mark.parametrize("epochs", [[], [0], [3, -1]])
def test_epochs_that_are_none(epochs: list[int]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"accepted: some of 1, 2, \.\.\."):
        callbacks.Supports(epochs)


def test_a_callback_changes_nothing() -> None:
    torch.manual_seed(1)
    plain = fit()
    torch.manual_seed(1)
    watched = fit(callbacks.TensorBoard(writer=StandIn()), callbacks.Supports([1]))
    for name, mean in plain.posterior.mean().items():
        assert torch.equal(watched.posterior.mean()[name], mean)
