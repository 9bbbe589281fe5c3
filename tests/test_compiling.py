"""Training steps that are compiled."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi._compiling import Evaluation, compiled, evaluation
from pyro_turbovbi.errors import CheckpointError, InvalidArgumentError, UnsupportedError

THREE_LAYER = priors.ThreeLayer(support=supports.Chain(0.3, 3.0))
SLOW = pytest.mark.slow
CASES = {
    "turbo": (engines.Turbo(), THREE_LAYER),
    "lean": (engines.Turbo(lean=True), THREE_LAYER),
    "svi": (engines.SVI(lr=0.01), priors.Normal(1.0)),
    "map": (engines.MAP(lr=0.01), priors.Normal(1.0)),
}
every_engine = pytest.mark.parametrize(("engine", "prior"), CASES.values(), ids=list(CASES))


class Compiler:
    """Stands for one: notes in which states of the net it is run."""

    def __init__(self) -> None:
        self.made: list[Evaluation] = []
        self.runs: list[tuple[bool, bool]] = []

    def __call__(self, evaluate: Evaluation) -> Evaluation:
        self.made.append(evaluate)

        def fast(weights: dict[str, Tensor], inputs: tuple[Any, ...]) -> Tensor:
            output = evaluate(weights, inputs)
            self.runs.append((torch.is_grad_enabled(), output.requires_grad))
            return output

        return fast


def network(units: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, units), nn.BatchNorm1d(units), nn.ReLU(), nn.Linear(units, 2))


def data(rows: int = 40) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 4)
    return x, (x[:, 0] > 0).long()


def model(prior: priors.Prior = THREE_LAYER) -> ptv.BayesianNet:
    return ptv.lift(network(), likelihood=likelihoods.Categorical(), prior=prior)


def run(bnn: ptv.BayesianNet, source: Any, **options: Any) -> ptv.Fit:
    defaults: dict[str, Any] = {"epochs": 2, "batch_size": 16, "progress": False}
    return ptv.fit(bnn, source, **(defaults | options))


@every_engine
def test_steps_are_compiled_and_nothing_else_is(engine: Any, prior: priors.Prior) -> None:
    """Once for a training; not in the checks before it, nor for the ELBO or the result after it."""
    bnn, source, compiler = model(prior), data(), Compiler()
    fit = run(bnn, source, engine=engine, compile=compiler)
    assert len(compiler.made) == 1
    assert compiler.runs == 7 * [(True, True)], "a trial, and two epochs of three batches"
    assert fit.bnn.compiler is None
    fit.predict(source[0], num_samples=2)
    assert len(compiler.runs) == 7
    plain = run(bnn, source, engine=engine)
    assert plain.history.elbo == fit.history.elbo
    assert plain.elbo == fit.elbo


@pytest.mark.parametrize(
    "name", ["turbo", "svi", *(pytest.param(slow, marks=SLOW) for slow in ("lean", "map"))]
)
def test_torchs_own_compiler_gives_the_same_fit(name: str) -> None:
    engine, prior = CASES[name]
    bnn, source = model(prior), data()
    plain = run(bnn, source, engine=engine)
    fast = run(bnn, source, engine=engine, compile=partial(torch.compile, backend="aot_eager"))
    assert fast.history.elbo == pytest.approx(plain.history.elbo, rel=1e-4)
    for weight, mean in plain.posterior.mean().items():
        torch.testing.assert_close(fast.posterior.mean()[weight], mean, rtol=1e-3, atol=1e-4)
    for place, buffer in plain.bnn.named_buffers():
        torch.testing.assert_close(fast.bnn.get_buffer(place), buffer, rtol=1e-3, atol=1e-4)


@SLOW
def test_every_net_is_compiled_however_many_there_are() -> None:
    graphs = 0

    def backend(graph: GraphModule, _: list[Tensor]) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    for units in range(3, 13):  # torch.compile would give up after eight
        net, before = network(units), graphs
        fast = compiled(net, partial(torch.compile, backend=backend))
        weights: dict[str, Tensor] = dict(net.named_parameters())
        inputs = (torch.randn(5, 4),)
        output = fast(weights, inputs)
        assert graphs == before + 1
        torch.testing.assert_close(output, evaluation(net)(weights, inputs))


def test_a_narrowed_net_is_not_compiled() -> None:
    compiler = Compiler()
    prior = priors.ThreeLayer(support=supports.Chain(0.01, 2.0))
    engine = engines.Turbo(compact_every=1)
    bnn = ptv.lift(network(40), likelihood=likelihoods.Categorical(), prior=prior)
    fit = run(bnn, data(200), engine=engine, epochs=10, compile=compiler)
    assert len(compiler.made) == 1
    assert 0 < len(compiler.runs) < 1 + 10 * 13
    assert fit.support_probs()["0.weight"].shape == (40, 4)


def test_a_compiled_net_counts_as_the_net_that_was_compiled() -> None:
    net = network()
    whole = ptv.lift(
        torch.compile(net, backend="eager"),  # type: ignore[arg-type]
        likelihood=likelihoods.Categorical(),
        prior=THREE_LAYER,
    )
    assert list(whole.sites) == ["0.weight", "3.weight"]
    assert type(whole.net) is nn.Sequential


def test_checkpoints_are_of_one_compiler(tmp_path: Path) -> None:
    bnn, source = model(), data()
    run(bnn, source, checkpoint=tmp_path, compile=partial(torch.compile, backend="eager"))
    with pytest.raises(CheckpointError, match="compile: none, in the checkpoint "):
        run(bnn, source, checkpoint=tmp_path)


def test_what_cannot_be_compiled() -> None:
    def compiler(_: Evaluation) -> Evaluation:
        def fails(_: dict[str, Tensor], __: tuple[Any, ...]) -> Tensor:
            raise RuntimeError("no C++ compiler\nfor the rest, see the log")

        return fails

    with pytest.raises(UnsupportedError) as error:
        run(model(), data(), compile=compiler)
    assert str(error.value) == (
        "the net cannot be compiled; given: RuntimeError: no C++ compiler; "
        "accepted: compile=None, or a compiler that takes this net on this machine"
    )


def test_a_full_memory_is_no_matter_of_compiling() -> None:
    def compiler(_: Evaluation) -> Evaluation:
        def fails(_: dict[str, Tensor], __: tuple[Any, ...]) -> Tensor:
            raise torch.OutOfMemoryError("full")

        return fails

    with pytest.raises(torch.OutOfMemoryError):
        run(model(), data(), compile=compiler)


@pytest.mark.usefixtures("no_type_checks")
def test_what_is_no_compiler() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        run(model(), data(), compile="inductor")
    assert str(error.value) == (
        "compile is no function that compiles; given: 'inductor'; "
        "accepted: torch.compile, functools.partial(torch.compile, ...), or None"
    )
