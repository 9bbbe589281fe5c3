"""A new order of hidden units in training changes nothing but the order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.batches import Batch
from pyro_turbovbi.coupling import couplings
from pyro_turbovbi.engines import TurboSettings
from pyro_turbovbi.engines.turbo.restructuring import masks_of, permute
from pyro_turbovbi.engines.turbo.vbi import TurboVBI
from pyro_turbovbi.errors import InvalidArgumentError

BATCH = Batch((torch.randn(40, 2, 6, 6, generator=torch.Generator().manual_seed(0)),
               torch.arange(40) % 3))  # fmt: skip


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


def begun(support: supports.Support, *, gates: bool) -> TurboVBI:
    """A run of a few steps, on a net in which half of the weights are clearly active."""
    torch.manual_seed(0)
    net = convolutional()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.mul_((torch.rand_like(parameter) < 0.4).float()).mul_(5.0)
    prior = priors.ThreeLayer(support, gates="shared" if gates else None)
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    bnn.num_data = 400
    settings = TurboSettings(
        init_scale=0.05, gates_from=0.0, annealing=engines.SpikeAnnealing(start=1.0)
    )
    run = TurboVBI(bnn, settings=settings, num_steps=200)
    for _ in range(4):
        run.step(*BATCH)
    return run


def output(run: TurboVBI) -> Tensor:
    assert isinstance(run.model, ptv.BayesianNet)
    run.model.eval()
    weights = {factor.name: factor.loc.detach() for factor in run.guide}
    result = run.model.output(weights, BATCH.x)
    run.model.train()
    return result


CASES = [
    (supports.Independent(0.3), False),
    (supports.Chain(0.3, 3.0), False),
    (supports.Grid(0.3, 1.5), False),
    (supports.Chain(0.3, 3.0), True),
]


@pytest.mark.parametrize(("support", "gates"), CASES)
def test_outputs_and_the_sizes_of_everything_stay(
    support: supports.Support, *, gates: bool
) -> None:
    run = begun(support, gates=gates)
    assert isinstance(run.model, ptv.BayesianNet)
    before, density = output(run), {n: int(m.sum()) for n, m in masks_of(run).items()}
    names = [name for name, p in run.model.net.named_parameters() if p.dim() > 1]
    orders = permute(run, couplings(run.model.net, names))
    assert orders
    torch.testing.assert_close(output(run), before)
    assert {n: int(m.sum()) for n, m in masks_of(run).items()} == density


def test_the_next_steps_are_those_of_the_run_in_the_old_order() -> None:
    """With an independent support no message depends on the order: losses are equal."""
    losses = []
    for change in (False, True):
        run = begun(supports.Independent(0.3), gates=False)
        assert isinstance(run.model, ptv.BayesianNet)
        names = [name for name, p in run.model.net.named_parameters() if p.dim() > 1]
        run.step(*BATCH)  # the mirror image of its noise is still to come
        if change:
            assert permute(run, couplings(run.model.net, names))
        losses.append(run.step(*BATCH))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("compact", [None, 2])
def test_training_with_new_orders_has_fewer_clusters(compact: int | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 20, generator=generator)
    y = (x[:, :6] @ torch.randn(6, 4, generator=generator)).argmax(1)
    fits = []
    for every in (None, 2):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 4)
        )
        bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.ThreeLayer())
        engine = engines.Turbo(lr=1e-2, reorder_every=every, compact_every=compact)
        fits.append(
            ptv.fit(bnn, (x, y), engine=engine, epochs=30, batch_size=50, seed=0, progress=False)
        )
    plain, ordered = (fit.compress((x, y)).report.regularity_total for fit in fits)
    assert ordered.mean_cluster_length > plain.mean_cluster_length
    errors = [fit.evaluate((x, y)).error for fit in fits]
    assert errors[0] is not None
    assert errors[1] == pytest.approx(errors[0], abs=0.03)


def test_intervals_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="reorder_every"):
        engines.Turbo(reorder_every=0)
