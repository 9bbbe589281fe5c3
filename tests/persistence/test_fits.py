"""A whole fit in one file; that every kind comes back is tested in `contract.test_saving`."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors
from pyro_turbovbi.compression.container import MAGIC
from pyro_turbovbi.errors import ArtifactError, InvalidArgumentError, StorageError, UnsupportedError
from pyro_turbovbi.persistence.container import pack, unpack

X, Y = torch.randn(40, 4), torch.arange(40) % 2


class Net(nn.Module):
    """A net that does not rebuild itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.tanh(self.first(x)))
        return out


def fitted(net: nn.Module | None = None, prior: priors.Prior | None = None) -> ptv.Fit:
    net = net or nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior or priors.ThreeLayer())
    return ptv.fit(bnn, (X, Y), epochs=2, batch_size=20, progress=False, device="cpu")


def test_the_file_can_be_read_without_this_package(tmp_path: Path) -> None:
    from safetensors import safe_open

    fit = fitted()
    fit.save(tmp_path / "fit")
    with safe_open(tmp_path / "fit", "pt") as file:
        manifest = json.loads(file.metadata()["pyro_turbovbi.fit"])
        loc = manifest["tree"]["posterior"]["loc"]["0.weight"]
        assert torch.equal(file.get_tensor(loc["$tensor"]), fit.posterior.mean()["0.weight"])
    assert manifest["tree"]["engine_name"] == "turbo"
    assert manifest["tree"]["history"][1]["epoch"] == 2
    assert manifest["tree"]["model"]["prior"]["default"]["kind"] == "ThreeLayer"


def test_a_net_of_ones_own_is_given_again(tmp_path: Path) -> None:
    fit = fitted(Net())
    fit.save(tmp_path / "fit")
    with pytest.raises(InvalidArgumentError, match=r"test_fits\.Net; accepted: Fit\.load"):
        ptv.Fit.load(tmp_path / "fit")
    again = ptv.Fit.load(tmp_path / "fit", net=Net())
    assert type(again.bnn.net) is Net
    torch.manual_seed(1)
    first = fit.predict(X, num_samples=2).outputs
    torch.manual_seed(1)
    assert torch.equal(first, again.predict(X, num_samples=2).outputs)


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Mine(priors.Normal):
        pass

    fit = fitted(prior=Mine(0.1))
    with pytest.raises(UnsupportedError, match="the prior cannot be stored"):
        fit.save(tmp_path / "fit")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = fitted()
    fit.save(tmp_path / "fit")
    before = (tmp_path / "fit").read_bytes()

    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        fit.save(tmp_path / "fit")
    assert (tmp_path / "fit").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "fit"]


def test_other_files_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    fit, path = fitted(), tmp_path / "fit"
    fit.save(path)
    content = path.read_bytes()
    fit.compress(X).save(tmp_path / "net")
    for wrong in (b"", content[:-1], content[:2000], (tmp_path / "net").read_bytes()):
        path.write_bytes(wrong)
        with pytest.raises(ArtifactError):
            ptv.Fit.load(path)
    for network in (MAGIC, (tmp_path / "net").read_bytes()):
        path.write_bytes(network)
        with pytest.raises(ArtifactError) as error:
            ptv.Fit.load(path)
        assert str(error.value) == (
            "the file holds no fit; given: a compressed network, which ptv.load reads; "
            "accepted: a file from Fit.save"
        )
    with pytest.raises(StorageError, match="No such file"):
        ptv.Fit.load(tmp_path / "none")
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as error:
        ptv.load(path)
    assert str(error.value) == (
        "the file holds no compressed network; given: a fit, which Fit.load reads; "
        "accepted: a file from Compressed.save"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"posterior": {"kind": "none"}},
        {"history": [{"epoch": 1}]},
        {"training": {}},
        {"model": None},
    ],
    ids=str,
)
def test_forged_files_are_refused(change: dict[str, object], tmp_path: Path) -> None:
    fitted().save(tmp_path / "fit")
    tree = unpack("fit", (tmp_path / "fit").read_bytes()) | change
    (tmp_path / "fit").write_bytes(pack("fit", tree))
    with pytest.raises(ArtifactError, match="does not describe a fit"):
        ptv.Fit.load(tmp_path / "fit")


def test_snapshots_of_a_running_training_can_be_saved(tmp_path: Path) -> None:
    bnn = ptv.lift(nn.Linear(4, 2), likelihood=likelihoods.Categorical(), prior=priors.Normal())

    def save(record: ptv.EpochRecord, snapshot: object) -> None:
        assert callable(snapshot)
        snapshot().save(tmp_path / f"fit{record.epoch}")

    fit = ptv.fit(
        bnn, (X, Y), engine=engines.SVI(), epochs=2, callbacks=[save], progress=False, device="cpu"
    )
    first, last = (ptv.Fit.load(tmp_path / f"fit{n}") for n in (1, 2))
    assert (len(first.history), len(last.history)) == (1, 2)
    assert first.elbo is None
    assert torch.equal(last.posterior.mean()["weight"], fit.posterior.mean()["weight"])
