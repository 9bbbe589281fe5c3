"""Bytes are those on disk, errors those of what is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.common import error_percent
from benchmarks.take_home_cases import files, int8
from benchmarks.take_home_cases.files import PLAIN, UNCERTAIN, files_of, forms_of, rounded_within
from pyro_turbovbi.compression import Compressed, compress, load_posterior
from tests.benchmarks.frontier_cases import tiny


@pytest.fixture(autouse=True)
def _without_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "available", lambda: False)


def small(scale: float | None) -> Compressed:
    net, x = tiny.build().eval(), tiny.points(120, 0).x
    weights = {n: p.detach() for n, p in net.named_parameters() if p.dim() > 1}
    masks = {name: torch.rand_like(w) < 0.7 for name, w in weights.items()}
    scales = {} if scale is None else {n: torch.full_like(w, scale) for n, w in weights.items()}
    return compress(net, masks, x, scales=scales, measure_latency=False)


ROUNDED = [rounded_within(tolerance) for tolerance in files.TOLERANCES]


def test_files_of_every_form() -> None:
    train, held_out = tiny.points(120, 0), tiny.points(60, 1)
    network = small(0.01)
    found = files_of(network, train, held_out)
    assert list(found) == [PLAIN, ROUNDED[0], UNCERTAIN, *ROUNDED[1:]]
    assert found[PLAIN]["bytes"] == network.report.bytes
    assert found[PLAIN]["error_percent"] == error_percent(network.module, held_out)
    rounded = network.quantise(train, tolerance=files.TOLERANCES[0])
    assert found[ROUNDED[0]]["bytes"] == rounded.report.bytes
    for form in (ROUNDED[0], UNCERTAIN):
        assert found[form]["error_percent"] == error_percent(rounded.module, held_out)
    sizes = [found[form]["bytes"] for form in (*reversed(ROUNDED), UNCERTAIN, PLAIN)]
    assert sizes == sorted(sizes)


def test_uncertainty_is_in_the_file(tmp_path: Path) -> None:
    network = small(0.01)
    forms = {form.name: form for form in forms_of(network, tiny.points(120, 0))}
    forms[UNCERTAIN].write(tmp_path / "net.ptv")
    for name, scale in load_posterior(tmp_path / "net.ptv").scales.items():
        left = scale[scale > 0]
        torch.testing.assert_close(left, torch.full_like(left, 0.01), rtol=0.1, atol=0, msg=name)


def test_no_uncertainty_without_standard_deviations() -> None:
    found = [form.name for form in forms_of(small(None), tiny.points(120, 0))]
    assert found == [PLAIN, ROUNDED[0]]
