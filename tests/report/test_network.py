from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi.errors import ArtifactError, StorageError
from pyro_turbovbi.report import SmallNetwork


@pytest.fixture(scope="module")
def compressed(classifier: ptv.Fit, classes: tuple[Tensor, Tensor]) -> ptv.Compressed:
    return classifier.compress(classes, keep=0.5)


def test_what_compress_gave(compressed: ptv.Compressed) -> None:
    small, report = SmallNetwork.of(compressed), compressed.report
    assert small.module is compressed.module
    assert small.kept == report.kept
    assert (small.before.bytes, small.after.bytes) == (report.bytes_dense, report.bytes)
    assert (small.before.flops, small.after.flops) == (report.flops_dense, report.flops)
    assert (small.after.latency, small.batch) == (report.latency, report.latency_batch)
    assert small.units == (str(report.structure_dense), str(report.structure))


def test_the_file_tells_the_same(
    compressed: ptv.Compressed,
    classifier: ptv.Fit,
    classes: tuple[Tensor, Tensor],
    tmp_path: Path,
) -> None:
    size = compressed.save(tmp_path / "net.ptv")
    expected = SmallNetwork.of(compressed)
    small = SmallNetwork.read(tmp_path / "net.ptv", classifier, classes[0])
    assert small.after.bytes == size == expected.after.bytes
    assert small.before.bytes == expected.before.bytes
    assert (small.before.flops, small.after.flops) == (expected.before.flops, expected.after.flops)
    assert small.units == expected.units
    assert small.coding == "plain"
    assert list(small.masks) == list(classifier.bnn.sites)
    for name, mask in expected.masks.items():
        assert torch.equal(small.masks[name], mask)
    blind = SmallNetwork.read(tmp_path / "net.ptv", classifier)
    assert (blind.batch, blind.units, blind.after.latency, blind.after.flops) == (None,) * 4


def test_networks_that_are_no_chains(tmp_path: Path) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x).relu()
            return self.last(hidden + self.second(hidden).relu())

    data = torch.randn(20, 3), torch.arange(20) % 2
    bnn = ptv.lift(
        Residual(), likelihood=ptv.likelihoods.Categorical(), prior=ptv.priors.Normal(1.0)
    )
    fit = ptv.fit(bnn, data, engine=ptv.engines.MAP(), epochs=1, progress=False)
    fit.compress(data, keep=0.6).save(tmp_path / "net.ptv")
    small = SmallNetwork.read(tmp_path / "net.ptv", fit, data[0])
    assert small.units is None
    assert list(small.masks) == ["first.weight", "second.weight", "last.weight"]
    assert small.module(data[0]).shape == (20, 2)


def test_files_that_cannot_be_read(classifier: ptv.Fit, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        SmallNetwork.read(tmp_path / "no.ptv", classifier)
    (tmp_path / "bad.ptv").write_bytes(b"what")
    with pytest.raises(ArtifactError):
        SmallNetwork.read(tmp_path / "bad.ptv", classifier)
