"""The cut network in torch.export and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pyro_turbovbi.compression import Compressed, compress, export
from pyro_turbovbi.errors import StorageError, UnsupportedError, VerificationError
from tests.compression.graph_nets import CASES, Apply, Case, features, masks_with_dead_units

QUICK = ("MLP", "MobileNetV2", "GPT")


def compressed(case: Case) -> Compressed:
    net = case.net(0)
    masks = masks_with_dead_units(net, 0, 0.3)
    return compress(net, masks, case.inputs(), measure_latency=False)


def marked(case: Case) -> object:
    return pytest.param(case, marks=() if case.name in QUICK else pytest.mark.slow, id=case.name)


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_round_trips(case: Case, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    small = compressed(case)
    path = small.to_onnx(tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batch = case.inputs()[1:5]  # neither the size that was exported nor one that was checked
    (made,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    expected = small.module(batch).detach()
    torch.testing.assert_close(torch.from_numpy(made), expected, rtol=1e-3, atol=1e-3)
    torch.export.save(small.export(), tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    torch.testing.assert_close(program(batch), expected, rtol=1e-4, atol=1e-4)


def test_a_wrong_file_is_found(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    small, other = (nn.Linear(3, 2).eval() for _ in range(2))
    path = tmp_path / "net.onnx"
    export.write_onnx(other, features(3), path, check=False)
    with pytest.raises(VerificationError, match=r"deviation.*at most 0\.0001"):
        export._check(small, features(3), path)
    with pytest.raises(VerificationError, match=r"shape.*\(1, 2\).*\(1, 4\)"):
        export._check(nn.Linear(3, 4), features(3)[:1], path)


def test_a_wrong_file_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(VerificationError):
        export.write_onnx(nn.Linear(3, 2).eval(), features(3), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_one_input_is_enough_for_batches_of_any_size() -> None:
    program = export.exported(nn.Linear(3, 2), features(3)[:1])
    assert program.module()(features(3)).shape == (6, 2)


def test_refuses_what_torch_cannot_export() -> None:
    def forward(x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x

    with pytest.raises(UnsupportedError, match=r"cannot export.*accepted"):
        export.exported(Apply(forward), features(3))


def test_names_the_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"without onnx, onnxscript, onnxruntime.*\[onnx\]"):
        export.write_onnx(nn.Linear(3, 2), features(3), tmp_path / "net.onnx")


def test_another_version_of_the_operators_is_written_or_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = tmp_path / "net.onnx"
    export.write_onnx(nn.Linear(3, 2), features(3), path, opset=18, check=False)
    assert onnx.load(path).opset_import[0].version == 18
    with pytest.raises(UnsupportedError, match=r"opset 999.*opset=20"):
        export.write_onnx(nn.Linear(3, 2), features(3), tmp_path / "b.onnx", opset=999)
    assert not (tmp_path / "b.onnx").exists()


def test_says_that_a_file_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(StorageError, match="cannot be written: No such file or directory"):
        export.write_onnx(nn.Linear(3, 2), features(3), tmp_path / "no" / "net.onnx", check=False)
