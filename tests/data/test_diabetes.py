from __future__ import annotations

import sys

import pytest
import torch

from pyro_turbovbi import data
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError


def test_shapes_types_and_scale() -> None:
    splits = data.diabetes()
    assert [tuple(part.x.shape) for part in splits] == [(354, 10), (44, 10), (44, 10)]
    for part in splits:
        assert part.x.dtype == part.y.dtype == torch.float32
        assert part.y.shape == part.x.shape[:1]
    x, y = splits.train
    torch.testing.assert_close(x.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, unbiased=False), torch.ones(10))
    assert y.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert y.std(unbiased=False).item() == pytest.approx(1.0, abs=1e-6)


def test_the_parts_make_up_the_bundled_set_in_its_own_unit() -> None:
    from sklearn.datasets import load_diabetes

    splits = data.diabetes(seed=5)
    targets = torch.cat([part.y for part in splits]) * splits.target_scale + splits.target_mean
    raw = torch.as_tensor(load_diabetes().target, dtype=torch.float32)
    torch.testing.assert_close(targets.sort().values, raw.sort().values)


def test_the_seed_decides_the_split() -> None:
    assert torch.equal(data.diabetes(seed=1).test.y, data.diabetes(seed=1).test.y)
    assert not torch.equal(data.diabetes(seed=1).test.y, data.diabetes(seed=2).test.y)


def test_fractions() -> None:
    assert [len(part.x) for part in data.diabetes(validation=0.0, test=0.5)] == [221, 0, 221]
    with pytest.raises(InvalidArgumentError, match="the fraction of test points is out of range"):
        data.diabetes(test=1.0)


@pytest.mark.parametrize(("name", "verb"), [("diabetes", "needs"), ("digits", "need")])
def test_without_scikit_learn_the_error_says_what_to_install(
    name: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UnsupportedError) as caught:
        getattr(data, name)()
    assert str(caught.value) == (
        f"{name} {verb} scikit-learn, which is not installed; "
        'accepted: pip install "pyro-turbovbi[demo]"'
    )
