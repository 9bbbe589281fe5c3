"""Bad input: a clear error before any training, told exactly."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports
from pyro_turbovbi.data import Splits, TensorPair
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    SiteError,
    TurboVBIError,
    UnsupportedError,
)

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


class Untouchable:
    """An engine that must never be reached."""

    name = "untouchable"
    full_batch = False

    def init(self, bnn: object, plan: object) -> object:
        raise AssertionError("training began")

    step = evaluate = finish = posterior = elbo_kind = init


def model(likelihood: likelihoods.Likelihood | None = None, outputs: int = 3) -> ptv.BayesianNet:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, outputs))
    return ptv.lift(
        net, likelihood=likelihood or likelihoods.Categorical(), prior=priors.ThreeLayer()
    )


def fit(data: Any, bnn: ptv.BayesianNet | None = None) -> None:
    ptv.fit(bnn or model(), data, engine=Untouchable(), progress=False)  # type: ignore[arg-type]


def with_value(value: float) -> Tensor:
    x = X.clone()
    x[7, 2] = value
    return x


def loader(x: Tensor, y: Tensor, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, y), **options)


INPUTS = "input 'x' contains NaN or infinite values; accepted: finite inputs"
TARGETS = "the targets contain NaN or infinite values; accepted: finite targets"
INTEGERS = (
    "accepted: an integer dtype such as torch.int64; or class probabilities of the output's shape"
)
CLASSES = "accepted: 0 .. 2, since the network has 3 outputs"
NO_BATCH = "the loader yields no batch; accepted: at least one batch"
EMPTY = "the data set is empty; accepted: at least one data point"
DATA = (
    "accepted: a DataLoader, a Dataset, or a pair (x, y) of tensors; batches (x, y) or a dict with "
    "the key 'y'"
)
SPLITS = Splits(TensorPair(X, Y), TensorPair(X, Y), TensorPair(X, Y))
PARTS = "(did you mean splits.train, or splits.test for an evaluation?)"
BAD_DATA: dict[str, tuple[Any, Any, str]] = {
    "NaN input": ((with_value(math.nan), Y), None, INPUTS),
    "infinite input": ((with_value(math.inf), Y), None, INPUTS),
    "NaN input in a loader": (loader(with_value(math.nan), Y, batch_size=4), None, INPUTS),
    "NaN target": (
        (X, torch.full((12,), math.nan)),
        (likelihoods.Gaussian(), 1),
        TARGETS,
    ),
    "infinite target": (
        (X, torch.full((12,), -math.inf)),
        (likelihoods.Gaussian(), 1),
        TARGETS,
    ),
    "label too large": (
        (X, Y + 1),
        None,
        f"class labels are out of range; given: 1 .. 3; {CLASSES}",
    ),
    "negative label": (
        (X, Y - 1),
        None,
        f"class labels are out of range; given: -1 .. 1; {CLASSES}",
    ),
    "float labels": (
        (X, Y.float()),
        None,
        f"class labels have the wrong type; given: torch.float32; {INTEGERS}",
    ),
    "boolean labels": (
        (X, Y > 0),
        None,
        f"class labels have the wrong type; given: torch.bool; {INTEGERS}",
    ),
    "binary target": (
        (X, Y),
        (likelihoods.Bernoulli(), 1),
        "binary targets are out of range; given: 0 .. 2; accepted: 0 and 1",
    ),
    "negative count": (
        (X, Y - 1),
        (likelihoods.Poisson(), 1),
        "counts are out of range; given: minimum -1; accepted: 0, 1, 2, ...",
    ),
    "no tensors": ((X[:0], Y[:0]), None, EMPTY),
    "empty loader": (loader(X[:0], Y[:0]), None, NO_BATCH),
    "loader that drops all": (loader(X, Y, batch_size=13, drop_last=True), None, NO_BATCH),
    "a single tensor": (
        X,
        None,
        f"data is of an unknown kind; given: Tensor; {DATA}",
    ),
    "arrays": (
        (X.numpy(), Y.numpy()),
        None,
        f"data is of an unknown kind; given: tuple of ndarray, ndarray; {DATA} "
        "(did you mean torch.from_numpy(x), torch.from_numpy(y)?)",
    ),
    "one array": (
        (X, Y.numpy()),
        None,
        f"data is of an unknown kind; given: tuple of Tensor, ndarray; {DATA} "
        "(did you mean torch.from_numpy(x), torch.from_numpy(y)?)",
    ),
    "all splits": (SPLITS, None, f"data is of an unknown kind; given: Splits; {DATA} {PARTS}"),
}


@pytest.mark.parametrize("case", BAD_DATA.values(), ids=list(BAD_DATA))
def test_data(case: tuple[Any, Any, str]) -> None:
    data, arguments, message = case
    bnn = model(*arguments) if arguments else model()
    with pytest.raises(InvalidDataError) as error:
        fit(data, bnn)
    assert str(error.value) == message


FIT = "accepted: inputs of the shape and dtype that the network was written for"
BAD_SHAPES: dict[str, tuple[Any, Any, str]] = {
    "lengths": (
        (X, Y[:11]),
        None,
        "inputs and targets have different lengths; given: (12, 4) and (11,); "
        "accepted: the same first dimension",
    ),
    "features": (
        (X[:, :3], Y),
        None,
        "the network cannot take a batch of inputs "
        "(mat1 and mat2 shapes cannot be multiplied (12x3 and 4x5)); "
        f"given: inputs (12, 3) torch.float32; {FIT}",
    ),
    "dtype": (
        (X.double(), Y),
        None,
        "the network cannot take a batch of inputs "
        "(mat1 and mat2 must have the same dtype, but got Double and Float); "
        "given: inputs (12, 4) torch.float64, a network of torch.float32; "
        "accepted: inputs of torch.float32: x.float()",
    ),
    "dtype and features": (
        (X[:, :3].double(), Y),
        None,
        "the network cannot take a batch of inputs "
        "(mat1 and mat2 must have the same dtype, but got Double and Float); "
        f"given: inputs (12, 3) torch.float64; {FIT}",
    ),
    "one-hot labels": (
        (X, nn.functional.one_hot(Y)),
        None,
        "targets do not fit the network's output under Categorical; "
        "given: targets (12, 3), output (12, 3); accepted: targets of shape (batch)",
    ),
    "several targets": (
        (X, X[:, :2]),
        (likelihoods.Gaussian(), 1),
        "targets do not fit the network's output under Gaussian; "
        "given: targets (12, 2), output (12, 1); accepted: targets of shape (batch, 1)",
    ),
    "odd outputs for two parameters": (
        (X, X[:, 0]),
        (likelihoods.Gaussian(heteroscedastic=True), 3),
        "heteroscedastic noise needs a mean and a log scale per target; "
        "given: 3 outputs; accepted: an even number of outputs",
    ),
}


@pytest.mark.parametrize("case", BAD_SHAPES.values(), ids=list(BAD_SHAPES))
def test_shapes(case: tuple[Any, Any, str]) -> None:
    data, arguments, message = case
    bnn = model(*arguments) if arguments else model()
    with pytest.raises(ShapeError) as error:
        fit(data, bnn)
    assert str(error.value) == message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights(value: float) -> None:
    net = nn.Linear(4, 3)
    with torch.no_grad():
        net.weight[1, 2] = value
    with pytest.raises(InvalidDataError) as error:
        ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.ThreeLayer())
    assert str(error.value) == (
        "parameter 'weight' of the net contains NaN or infinite values; "
        "accepted: finite start values"
    )


@pytest.mark.parametrize("density", [0.0, 1.0, -0.1, 1.5, math.nan])
@pytest.mark.parametrize("support", [supports.Independent, supports.Chain, supports.Grid])
def test_density(support: Any, density: float) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        support(density=density)
    assert str(error.value) == (
        f"density is no probability strictly between 0 and 1; given: {density}; "
        "accepted: a number in (0, 1), e.g. 0.05"
    )


@pytest.mark.parametrize(
    ("support", "name"),
    [
        (lambda: supports.Chain(0.9, mean_run=5.0), "mean_run"),
        (lambda: supports.Grid(0.9, mean_run=(5.0, 20.0)), "mean_run along rows"),
        (lambda: supports.Grid(0.9, mean_run=(20.0, 5.0)), "mean_run along columns"),
    ],
)
def test_impossible_mean_run(support: Any, name: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        support()
    assert str(error.value) == (
        f"no chain of density 0.9 has this {name}; given: 5.0; accepted: a number of at least 9, "
        "the smallest possible mean run; 10 means no coupling"
    )


def test_prior_on_a_missing_parameter() -> None:
    selection = priors.by_site({"fc3.weight": priors.ThreeLayer()})
    with pytest.raises(SiteError) as error:
        ptv.lift(nn.Linear(4, 3), likelihood=likelihoods.Categorical(), prior=selection)
    assert str(error.value) == (
        "a prior is declared for a parameter that the net does not have; given: fc3.weight; "
        "accepted: a name or shell-style pattern of weight, bias"
    )


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("engine", "given"),
    [
        ("turbo", "turbo"),
        (3, "3"),
        (engines.Turbo, "<class 'pyro_turbovbi.engines.turbo.engine.Turbo'>"),
    ],
)
def test_unknown_engine(engine: Any, given: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        ptv.fit(model(), (X, Y), engine=engine, progress=False)
    assert str(error.value) == (
        f"unknown engine; given: {given}; accepted: engines.Turbo(), engines.SVI(), engines.MAP()"
    )


@pytest.mark.usefixtures("no_type_checks")
def test_incomplete_engine_is_told_what_it_lacks() -> None:
    class Half:
        name, full_batch = "half", False

        def init(self, bnn: Any, plan: Any) -> None: ...
        def step(self, state: Any, batch: Any) -> float: ...
        def evaluate(self, state: Any, batch: Any) -> float: ...
        def posterior(self, state: Any) -> Any: ...
        def elbo_kind(self, state: Any) -> str: ...

    with pytest.raises(InvalidArgumentError, match=r"^the engine lacks finish; given: "):
        ptv.fit(model(), (X, Y), engine=Half(), progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lr": -1.0},
            "SVI setting 'lr' is out of range; given: -1.0; accepted: a positive number",
        ),
        (
            {"init_scale": 0.0},
            "SVI setting 'init_scale' is out of range; given: 0.0; accepted: a positive number",
        ),
    ],
)
def test_svi_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        engines.SVI(**settings)
    assert str(error.value) == message


def test_svi_refuses_schedulers() -> None:
    settings = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.9}
    with pytest.raises(InvalidArgumentError) as error:
        engines.SVI(optim=pyro.optim.ExponentialLR(settings))
    assert str(error.value) == (
        "schedulers of Pyro are not supported: nothing calls their step(); given: ExponentialLR; "
        "accepted: a plain optimiser of pyro.optim, or None"
    )


@pytest.mark.usefixtures("no_type_checks")
def test_svi_optimiser_of_another_library() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"accepted: an optimiser of pyro.optim, or None"
    ):
        engines.SVI(optim=torch.optim.Adam)


@pytest.fixture(scope="module")
def fitted() -> ptv.Fit:
    return ptv.fit(model(), (X, Y), engine=engines.Turbo(), epochs=1, progress=False)


INPUT = "accepted: a tensor, or a dict of tensors for a forward with several arguments"
BAD_INPUTS: dict[str, tuple[Any, type[TurboVBIError], str]] = {
    "an array": (
        X.numpy(),
        InvalidDataError,
        "the inputs are of an unknown kind; given: ndarray; "
        f"{INPUT} (did you mean torch.from_numpy(x)?)",
    ),
    "a pair": (
        (X, Y),
        InvalidDataError,
        "the inputs are of an unknown kind; given: tuple of Tensor, Tensor; "
        f"{INPUT} (did you mean the inputs alone, the first of a pair (x, y)?)",
    ),
    "all splits": (
        SPLITS,
        InvalidDataError,
        f"the inputs are of an unknown kind; given: Splits; {INPUT} (did you mean splits.test.x?)",
    ),
    "a loader": (
        loader(X, Y),
        InvalidDataError,
        f"the inputs are of an unknown kind; given: DataLoader; {INPUT}",
    ),
    "an empty dict": (
        {},
        InvalidDataError,
        f"the inputs are of an unknown kind; given: dict; {INPUT}",
    ),
    "no points": (
        X[:0],
        InvalidDataError,
        "the inputs are empty; given: (0, 4) torch.float32; accepted: at least one data point",
    ),
    "a number": (
        X[0, 0],
        InvalidDataError,
        "the inputs are empty; given: () torch.float32; accepted: at least one data point",
    ),
    "rows": (
        {"a": X, "b": X[:3]},
        ShapeError,
        "inputs have different numbers of rows; given: a (12, 4), b (3, 4); "
        "accepted: one row per data point in all of them",
    ),
    "names": (
        {"a": X, "b": X},
        ShapeError,
        "the network cannot take a batch of inputs "
        "(Sequential.forward() got an unexpected keyword argument 'a'); "
        f"given: inputs a (12, 4), b (12, 4); {FIT}",
    ),
    "features": (X[:, :3], ShapeError, BAD_SHAPES["features"][2]),
    "dtype": (X.double(), ShapeError, BAD_SHAPES["dtype"][2]),
}


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("case", BAD_INPUTS.values(), ids=list(BAD_INPUTS))
def test_inputs_of_a_prediction(case: tuple[Any, type[TurboVBIError], str], fitted: Any) -> None:
    x, kind, message = case
    with pytest.raises(kind) as error:
        fitted.predict(x)
    assert str(error.value) == message


def test_what_a_prediction_refuses_an_evaluation_refuses_too(fitted: ptv.Fit) -> None:
    with pytest.raises(InvalidDataError) as error:
        fitted.evaluate(SPLITS)
    assert str(error.value) == BAD_DATA["all splits"][2]
    with pytest.raises(ShapeError) as wrong:
        fitted.evaluate((X.double(), Y))
    assert str(wrong.value) == BAD_SHAPES["dtype"][2]


def test_errors_of_another_cause_keep_their_words(
    fitted: ptv.Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("no draw")

    monkeypatch.setattr(type(fitted.posterior), "draw", lambda _: fail())
    with pytest.raises(RuntimeError, match=r"^no draw$"):
        fitted.predict(X)


def test_compressing_tells_what_was_given(fitted: ptv.Fit) -> None:
    with pytest.raises(ShapeError) as error:
        fitted.compress((X[:, :3], Y))
    assert str(error.value) == BAD_SHAPES["features"][2].replace("12x3", "4x3")


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": "64"},
            "batch_size is out of range; given: '64'; accepted: 1, 2, ...",
        ),
        ({"batch_size": 0}, "batch_size is out of range; given: 0; accepted: 1, 2, ..."),
        ({"batch_size": 1.5}, "batch_size is out of range; given: 1.5; accepted: 1, 2, ..."),
        ({"seed": "a"}, "seed is no whole number of 64 bits; given: 'a'; accepted: 0, 1, 2, ..."),
        ({"seed": 0.5}, "seed is no whole number of 64 bits; given: 0.5; accepted: 0, 1, 2, ..."),
        (
            {"seed": 2**64},
            f"seed is no whole number of 64 bits; given: {2**64}; accepted: 0, 1, 2, ...",
        ),
        ({"epochs": "2"}, "epochs is out of range; given: '2'; accepted: 1, 2, ..."),
    ],
)
def test_numbers_of_a_training(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        ptv.fit(model(), (X, Y), engine=Untouchable(), progress=False, **settings)
    assert str(error.value) == message


def test_numbers_of_draws(fitted: ptv.Fit) -> None:
    fit = fitted
    with pytest.raises(InvalidArgumentError, match=r"^num_samples is out of range; given: -1"):
        fit.predict(X, num_samples=-1)
    with pytest.raises(InvalidArgumentError, match=r"^n is out of range; given: 0"):
        fit.sample(0)


def test_unknown_guide_name() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        engines.SVI(guide="normal")
    assert str(error.value) == (
        "unknown guide; given: normal; accepted: auto_delta, auto_normal, auto_diagonal_normal, "
        "auto_low_rank_multivariate_normal, auto_multivariate_normal, auto_structured"
    )


def test_swapped_components() -> None:
    with pytest.raises(InvalidArgumentError, match="must allow larger weights than the inactive"):
        priors.ThreeLayer(active=dist.Gamma(1.0, 1e-4), inactive=dist.Gamma(1.0, 1.0))


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.0},
        {"scale_lr": -1.0},
        {"kl_weight": 0.0},
        {"init_scale": 0.0},
        {"kl_warmup": 1.0},
        {"damping": 1.0},
        {"damping": -0.1},
        {"refresh_every": 0},
        {"messages_every": 0},
    ],
)
def test_turbo_settings(settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    with pytest.raises(
        InvalidArgumentError, match=f"Turbo setting '{name}' is out of range; given: "
    ):
        engines.Turbo(**settings)


def test_every_error_is_one_root_and_a_standard_exception() -> None:
    for wrong in (InvalidArgumentError, InvalidDataError, ShapeError, SiteError):
        assert issubclass(wrong, TurboVBIError)
        assert issubclass(wrong, ValueError)
    assert issubclass(UnsupportedError, TurboVBIError)
    assert issubclass(UnsupportedError, RuntimeError)


def test_good_data_reaches_the_engine() -> None:
    """The control: the same call with nothing wrong goes on to training."""
    with pytest.raises(AssertionError, match="training began"):
        fit((X, Y))
    with pytest.raises(AssertionError, match="training began"):
        fit(loader(X, Y, batch_size=5))
