from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.engines.turbo.module_b import ModuleB
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.priors.hyperparameters import declared, support_parameters

GAMMAS = {
    "active_concentration": 1.0,
    "active_rate": 50.0**2 / 20,
    "inactive_concentration": 4.0,
    "inactive_rate": 4 * 0.06**2 / 20,
}
CHAIN = {"density": 0.2, "mean_run": 4.0, "p10": 0.25, "p01": 0.0625}


def site(prior: Any) -> WeightSite:
    return WeightSite("w", torch.Size((10, 20)), prior, None)


@pytest.mark.parametrize(
    ("support", "expected"),
    [
        (supports.Independent(0.2), {"density": 0.2}),
        (supports.Chain(0.2, 4.0), CHAIN),
        (supports.Blocks((2, 2), supports.Chain(0.2, 4.0)), CHAIN),
        (supports.Grid(0.2, (4.0, 3.0)), {"density": 0.2, "row_run": 4.0, "column_run": 3.0}),
        (
            supports.Gated(gate=(0.5, 5.0), within=(0.2, 4.0)),
            CHAIN
            | {
                "density": 0.1,
                "within_density": 0.2,
                "gate_density": 0.5,
                "gate_mean_run": 5.0,
                "gate_p01": 0.2,
                "gate_p10": 0.2,
            },
        ),
    ],
)
def test_a_three_layer_prior_reports_support_and_components(
    support: supports.Support, expected: dict[str, float]
) -> None:
    found = declared(site(priors.ThreeLayer(support)))
    assert found == pytest.approx(expected | GAMMAS, rel=1e-12)


def test_shared_gates_are_reported_where_a_weight_has_them() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    prior = priors.ThreeLayer(supports.Chain(0.2, 4.0), gates="shared")
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    for name, site in bnn.sites.items():
        found = declared(site)
        assert site.gates is not None
        sides = {"row": site.gates.rows, "column": site.gates.columns}
        for side, gates in sides.items():
            assert found.get(f"{side}_gate_density") == (None if gates is None else gates.density)
        scale = (found["inactive_rate"] / found["inactive_concentration"]) ** 0.5
        assert (found["closed_rate"] / found["closed_concentration"]) ** 0.5 == pytest.approx(scale)
        assert "density" in found, name


def test_other_priors_report_the_numbers_that_they_were_made_with() -> None:
    class Mute(priors.Prior):
        def emit(self, name: str, shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
            return like

    assert declared(site(priors.Normal(0.3))) == {"scale": 0.3}
    assert declared(site(priors.Horseshoe(global_scale=0.1)))["global_scale"] == 0.1
    assert declared(site(Mute())) == {}


def test_em_on_the_messages_of_a_known_chain_recovers_it() -> None:
    """Synthetic log-likelihood ratios: a Gaussian channel of known quality over a known support."""
    truth = supports.Chain(density=0.15, mean_run=8.0).distribution(torch.Size((200, 200)))
    support = truth.sample()
    # y = s + noise of scale 1/2: the log-likelihood ratio is (2 y - 1) / (2 scale^2).
    llr = (2 * (support + 0.5 * torch.randn_like(support)) - 1) / 0.5
    start = supports.Chain(density=0.5, mean_run=2.0).distribution(support.shape)
    module_b = ModuleB(start, damping=0.0)
    message = torch.zeros_like(llr)
    for _ in range(60):
        module_b.exchange(llr, message, learn=True)
    found = support_parameters(module_b.distribution)
    before, after = support[:, :-1], support[:, 1:]
    p01 = float(((1 - before) * after).sum() / (1 - before).sum())
    p10 = float((before * (1 - after)).sum() / before.sum())
    assert found["density"] == pytest.approx(0.15, abs=0.02)
    assert found["p01"] == pytest.approx(p01, rel=0.06)
    assert found["p10"] == pytest.approx(p10, rel=0.06)
    assert found["mean_run"] == pytest.approx(8.0, rel=0.1)
