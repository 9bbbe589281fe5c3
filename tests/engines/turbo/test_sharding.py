"""Exchanges that are divided among processes: against those of one, with threads for processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.distributed import World
from pyro_turbovbi.engines.turbo import sharding
from pyro_turbovbi.engines.turbo.module_b import ModuleB
from pyro_turbovbi.engines.turbo.settings import TurboSettings
from pyro_turbovbi.errors import NumericalError
from tests.contract.test_saving import differences
from tests.threads import in_threads

SUPPORTS = {"0.weight": supports.Chain(0.3, 3.0), "2.weight": supports.Grid(0.3, 2.0)}


def run(settings: TurboSettings | None = None) -> ptv.TurboVBI:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 2)
    )
    given: dict[str, priors.Prior] = {n: priors.ThreeLayer(support=s) for n, s in SUPPORTS.items()}
    given |= {"4.weight": priors.ThreeLayer(), "5.weight": priors.Normal()}
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.by_site(given))
    turbo = ptv.TurboVBI(bnn, settings=settings)
    turbo.setup(torch.randn(8, 7), torch.arange(8) % 2)
    return turbo


def moments(turbo: ptv.TurboVBI) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = {factor.name: factor.loc.shape for factor in turbo.guide}
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def state_of(turbo: ptv.TurboVBI) -> list[Any]:
    return [dict(turbo.guide.state_dict()), {n: s.state_dict() for n, s in turbo.sites.items()}]


@pytest.mark.parametrize("settings", [TurboSettings(), TurboSettings(learn_hyper=True)])
@pytest.mark.parametrize("size", [2])
def test_all_end_with_what_one_process_has(
    settings: TurboSettings, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, passes = run(settings), []
    runs = [run(settings) for _ in range(size)]
    for turbo in (alone, *runs):
        for site in turbo.sites.values():
            site.anneal(1.0)
    given = moments(alone)
    for _ in range(2):
        for name, site in alone.sites.items():
            site.exchange(given[name])
    usual = ModuleB.exchange

    def counted(self: ModuleB, *args: Any, **options: Any) -> Any:
        passes.append(self._site)
        return usual(self, *args, **options)

    monkeypatch.setattr(ModuleB, "exchange", counted)

    def task(world: World) -> None:
        turbo = runs[world.rank]
        for _ in range(2):
            sharding.exchange(world, turbo.sites, turbo.guide, given)

    in_threads(size, task)
    assert sorted(passes) == sorted([*SUPPORTS, "4.weight"] * 2), "each by one process"
    for turbo in runs:
        assert differences(state_of(turbo), state_of(alone)) == []


def test_what_one_process_meets_all_raise() -> None:
    runs = [run(), run()]
    given = moments(runs[0])
    given["4.weight"] = torch.full_like(given["4.weight"], torch.nan)

    def task(world: World) -> str:
        turbo = runs[world.rank]
        with pytest.raises(NumericalError) as caught:
            sharding.exchange(world, turbo.sites, turbo.guide, given)
        return str(caught.value)

    first, second = in_threads(2, task)
    assert first == second
    assert "'4.weight'" in first
