from __future__ import annotations

import math

import pytest

from pyro_turbovbi.kernels import ChainLaw


@pytest.mark.parametrize("density", [1e-6, 0.05, 0.5, 0.9])
def test_the_stationary_law_has_the_density_and_the_run(density: float) -> None:
    law = ChainLaw.stationary(density, 20.0)
    assert law.density == pytest.approx(density, rel=1e-12)
    assert 1 / law.p10 == pytest.approx(20.0)
    assert law.log_odds == pytest.approx(math.log(density / (1 - density)))
    # stationary: as much flows from zero to one as back
    assert (1 - density) * law.p01 == pytest.approx(density * law.p10)


def test_complements() -> None:
    law = ChainLaw(0.3, 0.6)
    assert (law.p00, law.p11) == (0.7, 0.4)
