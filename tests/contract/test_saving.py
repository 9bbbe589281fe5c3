"""One contract over all engines and priors: a fit that was saved and loaded is the same fit.

Not nearly the same: draws, masks, cut networks and exports agree bit for bit under one seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor

import pyro_turbovbi as ptv
from pyro_turbovbi.compression import compress
from tests.contract import test_engines as by_engine
from tests.contract import test_priors as by_prior

ALL = [*(("engine", *c) for c in by_engine.CAN), *(("prior", *c) for c in by_prior.CAN)]
#: Guides of one's own that are no product of normals, which the file cannot bring along.
GUIDES = {"svi relaxed guide": "relaxed", "svi enumerated guide": "enumerated"}


def is_fast(kind: str, engine: str, case: str) -> bool:
    """Two models of every engine, and every prior under one of them."""
    if kind == "prior" or (engine, case) == ("nuts", "all sampled, collapsed"):
        return engine == "auto_normal"
    return case in [model for name, model in by_engine.CAN if name == engine][:2]


CASES = [pytest.param(*c, marks=[] if is_fast(*c) else [pytest.mark.slow]) for c in ALL]


def trained(kind: str, engine: str, case: str) -> tuple[ptv.Fit, Tensor, Tensor]:
    """A fit, and the data that it was made from."""
    if kind == "engine":
        model = by_engine.MODELS[case]
        return by_engine.fit(engine, model), model.x, model.y
    bnn = by_prior.lifted(by_prior.PRIORS[case])
    return by_prior.fit(by_prior.ENGINES[engine], bnn), by_prior.IMAGES, by_prior.LABELS


def seen(fit: ptv.Fit, x: Tensor, y: Tensor) -> dict[str, Any]:
    """What can be seen of a fit, all tensors and numbers by name."""
    torch.manual_seed(1)
    tree: dict[str, Any] = {
        "draw": fit.posterior.draw(),
        "outputs": fit.predict(x, num_samples=2).outputs,
        "mean": fit.posterior.mean(),
        "scale": fit.posterior.scale(),
        "support": fit.support_probs(),
        "gates": fit.gate_probs(),
        "moments": fit.posterior.moments(),
        "masks": [fit.masks(), fit.masks(0.3)],
        "hyperparameters": fit.hyperparameters(),
        "evaluation": fit.evaluate((x, y), num_samples=2),
        "text": repr(fit),
        "history": list(fit.history),
        "training": fit.training,
        "state": fit.bnn.state_dict(),
        "points": dict(fit.bnn.points),
        "mode": [module.training for module in fit.bnn.modules()],
    }
    masks, scales = fit.masks(0.5), fit.posterior.scale() or {}
    finite = {n: scales[n] for n in masks if n in scales and bool(scales[n].isfinite().all())}
    small = compress(fit.mean_net(), masks, x, scales=finite, measure_latency=False)
    tree["compressed"] = [small.module.state_dict(), small.masks, small.scales]
    data = fit.to_arviz((x, y), num_samples=3)
    tree["arviz"] = {
        f"{group}/{name}": torch.from_numpy(np.array(values))
        for group in data.groups()
        for name, values in data[group].data_vars.items()
        if values.dtype != object
    }
    return tree


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Places at which two trees are not the same bit for bit."""
    if isinstance(a, Tensor):
        equal = a.dtype == b.dtype and torch.equal(torch.isnan(a), torch.isnan(b))
        return [] if equal and torch.equal(a.nan_to_num(), b.nan_to_num()) else [where]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [where]
        return [d for key in a for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple):
        pairs = enumerate(zip(a, b, strict=True))
        return [d for i, (u, v) in pairs for d in differences(u, v, f"{where}/{i}")]
    return [] if a == b else [where]


@pytest.mark.parametrize(("kind", "engine", "case"), CASES)
def test_a_loaded_fit_is_the_same_fit(kind: str, engine: str, case: str, tmp_path: Path) -> None:
    fit, x, y = trained(kind, engine, case)
    size = fit.save(tmp_path / "fit")
    assert size == (tmp_path / "fit").stat().st_size
    random_state = torch.get_rng_state()
    guide = by_engine.guide_of(GUIDES[engine]) if engine in GUIDES else None
    loaded = ptv.Fit.load(tmp_path / "fit", guide=guide)
    assert torch.equal(torch.get_rng_state(), random_state), "loading draws nothing"
    assert list(pyro.get_param_store().keys()) == []
    assert type(loaded.posterior) is type(fit.posterior)
    assert loaded.bnn.prior == fit.bnn.prior
    assert differences(seen(fit, x, y), seen(loaded, x, y)) == []
    assert loaded.save(tmp_path / "again") == size
    assert (tmp_path / "again").read_bytes() == (tmp_path / "fit").read_bytes()
