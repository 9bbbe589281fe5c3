from __future__ import annotations

import pytest
import torch

from pyro_turbovbi.diagnostics import f1_score


def _mask(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


@pytest.mark.parametrize(
    ("estimated", "true", "score"),
    [
        ((1, 1, 0, 0), (1, 1, 0, 0), 1.0),
        ((1, 0, 0, 0), (0, 1, 0, 0), 0.0),
        ((0, 0, 0, 0), (1, 0, 0, 0), 0.0),
        ((1, 0, 0, 0), (0, 0, 0, 0), 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 1.0),
        ((1, 1, 1, 0), (1, 0, 0, 0), 0.5),
    ],
)
def test_known_values(estimated: tuple[int, ...], true: tuple[int, ...], score: float) -> None:
    assert f1_score(_mask(*estimated), _mask(*true)) == score


def test_equals_scikit_learn() -> None:
    from sklearn.metrics import f1_score as reference

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        estimated, true = (torch.rand(2, 6, 7, generator=generator) < 0.3).unbind()
        expected = reference(true.flatten().numpy(), estimated.flatten().numpy())
        assert f1_score(estimated, true) == pytest.approx(expected, abs=1e-12)
