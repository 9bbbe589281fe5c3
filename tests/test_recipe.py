"""Recipes: what a file declares is what is trained, and nothing runs before."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import Recipe, engines, priors, supports
from pyro_turbovbi.data import Splits
from pyro_turbovbi.errors import InvalidArgumentError, SpecError

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").iterdir())
LINEAR = {"call": "torch.nn:Linear", "arguments": [64, 10]}
DIGITS = {"kind": "digits"}


def recipe(**given: Any) -> Recipe:
    parts: dict[str, Any] = {
        "net": LINEAR,
        "data": DIGITS,
        "likelihood": {"kind": "Categorical"},
        "prior": priors.ThreeLayer(),
        "epochs": 1,
    }
    return Recipe(**{**parts, **given})


# The recipes of the repository -----------------------------------------------------------------


def as_declared(made: ptv.recipe.Ingredients, declared: Recipe) -> ptv.recipe.Ingredients:
    """Sixteen points in place of the data, which need not be on this machine."""
    x = torch.randn(16, 13 if "uci" in str(declared.data) else 64)
    y = x[:, 0] if "uci" in str(declared.data) else torch.arange(16) % 10
    return made._replace(data=(x, y))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_of_the_repository_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = Recipe.load(path)
    monkeypatch.setattr(ptv.recipe._Deferred, "build", without_data(ptv.recipe._Deferred.build))
    made = as_declared(declared.build(), declared)
    fitted = dataclasses.replace(declared, epochs=1).fit(made, progress=False)
    assert math.isfinite(fitted.history[0].loss)
    assert fitted.evaluate(made.train, num_samples=2).num_points == 16
    page = (ROOT / "docs" / "recipes.md").read_text()
    assert f"recipes/{path.name}" in page, "the page shows every recipe"


def without_data(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda self: (
        None if self.member.__module__.startswith("pyro_turbovbi.data") else build(self)
    )


def test_priors_on_the_page_are_priors(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    written = [text for text in blocks if text.startswith(("kind:", "sites:"))]
    assert len(written) == 2
    for text in written:
        (tmp_path / "prior.yaml").write_text(text)
        assert isinstance(priors.from_spec(tmp_path / "prior.yaml"), priors.Prior | priors.BySite)


def test_the_message_on_the_page_is_the_message(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    (shown,) = re.findall(r"^```text\n(.*)\n```", page, re.MULTILINE)
    text = (ROOT / "recipes" / "digits_chain.yaml").read_text().replace("density", "densty")
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(SpecError) as error:
        Recipe.load(tmp_path / "recipe.yaml")
    assert str(error.value).removeprefix(f"{tmp_path}{os.sep}") == shown


def test_recipes_say_what_they_declare() -> None:
    digits, boston = (Recipe.load(path) for path in RECIPES)
    assert digits.prior == priors.ThreeLayer(supports.Chain(density=0.05, mean_run=10))
    assert digits.build().engine == engines.Turbo(kl_weight=0.1)
    assert boston.net["call"] == str(ROOT / "models" / "uci_mlp.py") + ":build"
    assert isinstance(boston.prior, priors.BySite)


def test_a_recipe_trains_as_the_same_program_does() -> None:
    declared = recipe(
        net={"call": "torch.nn:Sequential", "arguments": [LINEAR]},
        engine={"kind": "Turbo", "lr": 0.01, "annealing": {"until": 0.5}},
        batch_size=512,
        seed=3,
    )
    made = declared.build()
    assert made.engine == engines.Turbo(lr=0.01, annealing=engines.SpikeAnnealing(until=0.5))
    torch.manual_seed(3)
    bnn = ptv.lift(
        nn.Sequential(nn.Linear(64, 10)),
        likelihood=ptv.likelihoods.Categorical(),
        prior=priors.ThreeLayer(),
    )
    train = ptv.data.digits().train
    options: dict[str, Any] = {"epochs": 1, "batch_size": 512, "seed": 3, "progress": False}
    written = ptv.fit(bnn, train, engine=made.engine, **options)
    assert declared.fit(progress=False).history[0].loss == written.history[0].loss


def test_building_leaves_the_random_state(seed: int) -> None:
    before = torch.get_rng_state()
    recipe().build()
    assert torch.equal(torch.get_rng_state(), before)


def test_defaults_are_those_of_fit() -> None:
    import inspect

    parameters = inspect.signature(ptv.fit).parameters
    declared = Recipe(net=LINEAR, data=DIGITS)
    for name in ("epochs", "batch_size", "seed"):
        assert getattr(declared, name) == parameters[name].default
    assert declared.engine == {"kind": "Turbo"}


# Round trips -----------------------------------------------------------------------------------

ARGUMENTS = st.dictionaries(
    st.sampled_from(["a", "b", "no", "1e-3"]),
    st.integers() | st.floats(allow_nan=False) | st.text("aé\"' :#", max_size=4) | st.booleans()
    | st.lists(st.integers(), max_size=2) | st.just({"call": "x/y.py:f", "arguments": [1]}),
    max_size=3,
)  # fmt: skip
CALLS = st.fixed_dictionaries(
    {"call": st.sampled_from(["a.b:c", "x.py:f", "/abs/x y.py:f"]), "arguments": ARGUMENTS}
)
ENGINES = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("Turbo")},
        optional={
            "lr": st.floats(1e-5, 1.0),
            "messages_every": st.integers(1, 9),
            "factorisation": st.sampled_from(["structured", "mean_field"]),
            "annealing": st.fixed_dictionaries({}, optional={"start": st.floats(1.0, 99.0)}),
        },
    ),
    st.fixed_dictionaries(
        {"kind": st.just("SVI")},
        optional={
            "guide": st.sampled_from(["auto_normal", {"function": "guides/turbo.py:build"}]),
            "loss": st.just({"call": "pyro.infer:TraceMeanField_ELBO"}),
        },
    ),
    st.fixed_dictionaries({"kind": st.just("MAP")}, optional={"lr": st.floats(1e-5, 1.0)}),
    CALLS,
)
DATA = CALLS | st.sampled_from(
    [DIGITS, {"kind": "mnist", "flat": False}, {"kind": "uci", "name": "yacht", "split": 3}]
)
LIKELIHOODS = CALLS | st.sampled_from(
    [{"kind": "Categorical"}, {"kind": "Poisson"}, {"kind": "Gaussian", "scale": 0.5}]
)
SPECS = st.fixed_dictionaries(
    {"net": CALLS, "data": DATA},
    optional={
        "engine": ENGINES,
        "likelihood": LIKELIHOODS,
        "prior": st.sampled_from([{"kind": "Normal"}, {"sites": {"*.bias": {"kind": "Point"}}}]),
        "epochs": st.integers(1, 99),
        "batch_size": st.integers(1, 99),
        "seed": st.integers(-5, 2**40),
    },
)


@hypothesis.settings(max_examples=40)
@given(spec=SPECS)
def test_round_trip(spec: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    declared = Recipe.from_spec(spec)
    assert Recipe.from_spec(declared.to_spec()) == declared
    folder = tmp_path_factory.mktemp("recipe")
    for name in ("recipe.yaml", "recipe.toml"):
        declared.save(folder / name)
        assert Recipe.load(folder / name) == declared
        assert Recipe.load(folder / name).to_spec() == declared.to_spec()


def test_files_are_named_relative_to_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("__*"))
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    declared = Recipe(net={"call": "models/digits_mlp.py:build"}, data=DIGITS)
    assert declared.net["call"] == os.path.join(tmp_path, "models", "digits_mlp.py") + ":build"
    declared.save("recipes/r.yaml")
    written = yaml.safe_load(Path("recipes/r.yaml").read_text())
    assert written["net"] == {"call": "../models/digits_mlp.py:build"}
    monkeypatch.chdir("/")
    assert Recipe.load(tmp_path / "recipes" / "r.yaml") == declared
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "_moved"))
    assert list(Recipe.load(moved / "recipes" / "r.yaml").build().bnn.sites)


def test_files_of_data_are_named_relative_to_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    declared = recipe(data={"kind": "csv_file", "path": "a.csv", "target": "b"})
    assert declared.data["path"] == str(tmp_path / "a.csv")
    (tmp_path / "recipes").mkdir()
    declared.save("recipes/r.yaml")
    assert yaml.safe_load(Path("recipes/r.yaml").read_text())["data"]["path"] == "../a.csv"
    monkeypatch.chdir("/")
    assert Recipe.load(tmp_path / "recipes" / "r.yaml") == declared


def test_values_can_be_changed_while_loading(tmp_path: Path) -> None:
    recipe(epochs=3).save(tmp_path / "r.yaml")
    changes: dict[tuple[str | int, ...], Any] = {("epochs",): 7, ("engine", "lr"): 0.5}
    changed = Recipe.load(tmp_path / "r.yaml", changes)
    assert (changed.epochs, changed.engine) == (7, {"kind": "Turbo", "lr": 0.5})
    with pytest.raises(SpecError, match=r"^engine.lr: Turbo setting"):
        Recipe.load(tmp_path / "r.yaml", {("engine", "lr"): -1.0})


def test_null_needs_yaml(tmp_path: Path) -> None:
    declared = recipe(data={"kind": "mnist", "root": None})
    declared.save(tmp_path / "r.yaml")
    assert Recipe.load(tmp_path / "r.yaml") == declared
    with pytest.raises(SpecError, match=r"TOML has no null, and data.root is None"):
        declared.save(tmp_path / "r.toml")


def test_a_recipe_keeps_no_hold_of_what_it_was_made_of() -> None:
    arguments: list[Any] = [64, 10]
    declared = recipe(net={"call": "torch.nn:Linear", "arguments": arguments})
    arguments.append("changed")
    assert declared.net["arguments"] == [64, 10]


# Nothing runs before build ---------------------------------------------------------------------


def test_loading_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("raise RuntimeError('the file was run')\n")
    spec = {
        "net": {"call": "code.py:f", "arguments": [{"call": "antigravity:fly"}]},
        "data": {"call": "antigravity:fly"},
        "engine": {"kind": "SVI", "guide": {"function": "code.py:g"}},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(spec))
    declared = Recipe.load(tmp_path / "r.yaml")
    declared.save(tmp_path / "again.toml")
    assert declared == Recipe.load(tmp_path / "again.toml")
    assert "antigravity" not in sys.modules
    with pytest.raises(RuntimeError, match="the file was run"):
        dataclasses.replace(declared, net={"call": str(tmp_path / "code.py:f")}).build()
    assert "antigravity" not in sys.modules


# Building --------------------------------------------------------------------------------------


def test_code_of_your_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from pyro_turbovbi import engines, likelihoods\n"
        "def data(n): return torch.randn(n, 3), torch.arange(n) % 2\n"
        "def engine(): return engines.MAP(lr=0.1)\n"
        "def likelihood(): return likelihoods.Bernoulli()\n"
    )
    declared = recipe(
        net={"call": "torch.nn:Linear", "arguments": {"in_features": 3, "out_features": 1}},
        data={"call": f"{tmp_path}/mine.py:data", "arguments": {"n": 12}},
        engine={"call": f"{tmp_path}/mine.py:engine"},
        likelihood={"call": f"{tmp_path}/mine.py:likelihood"},
        prior=priors.Normal(),
    )
    made = declared.build()
    assert made.train[0].shape == (12, 3)
    assert made.engine == engines.MAP(lr=0.1, loss=made.engine.loss)  # type: ignore[attr-defined]
    assert declared.fit(made, progress=False).engine_name == "map"


def test_guides_of_the_gallery() -> None:
    guide = {"function": str(ROOT / "guides" / "mean_field_normal.py") + ":build"}
    loss = {"call": "pyro.infer:TraceMeanField_ELBO"}
    declared = recipe(
        engine={"kind": "SVI", "guide": guide, "loss": loss}, prior=priors.Normal(), batch_size=2048
    )
    engine = declared.build().engine
    assert isinstance(engine, engines.SVI)
    assert callable(engine.guide)
    assert type(engine.loss).__name__ == "TraceMeanField_ELBO"
    assert math.isfinite(declared.fit(progress=False).history[0].loss)


def test_a_lifted_net_keeps_what_the_recipe_leaves_out() -> None:
    call = {"call": str(ROOT / "models" / "uci_mlp.py") + ":build", "arguments": {"features": 64}}
    own = recipe(net=call, likelihood=None, prior=None).build().bnn
    assert own.likelihood.scale == pytest.approx(0.5)
    assert own.prior.default == priors.ThreeLayer(supports.Independent(density=0.2))
    given = recipe(net=call, likelihood={"kind": "Poisson"}, prior=priors.Normal()).build().bnn
    assert isinstance(given.likelihood, ptv.likelihoods.Poisson)
    assert given.prior.default == priors.Normal()


@pytest.mark.parametrize(
    ("outputs", "likelihood", "message"),
    [
        (
            1,
            "Gaussian",
            "the targets are classes, which Gaussian takes for amounts; given: {}, outputs: 1; "
            "accepted: likelihood: {{kind: Categorical}} and a net with 10 outputs in the recipe",
        ),
        (
            10,
            "Poisson",
            "the targets are classes, which Poisson takes for amounts; given: {}, outputs: 10; "
            "accepted: likelihood: {{kind: Categorical}} in the recipe",
        ),
        (
            9,
            "Categorical",
            "the network has fewer outputs than there are classes; given: {}, outputs: 9; "
            "accepted: a net with 10 outputs in the recipe",
        ),
        (
            1,
            "Bernoulli",
            "Bernoulli is for two classes; given: {}, outputs: 1; accepted: likelihood: "
            "{{kind: Categorical}} and a net with 10 outputs in the recipe",
        ),
    ],
)
def test_classes_are_not_trained_on_as_amounts(outputs: int, likelihood: str, message: str) -> None:
    recipe = Recipe(
        net={"call": "torch.nn:Linear", "arguments": [64, outputs]},
        data={"kind": "digits"},
        likelihood={"kind": likelihood},
        prior=priors.Normal(),
    )
    with pytest.raises(SpecError) as caught:
        recipe.fit(progress=False)
    assert str(caught.value) == message.format("10 classes (0, 1, 2, 3, 4, ...)")


def test_a_model_without_its_data() -> None:
    recipe = Recipe(
        net={"call": "torch.nn:Linear", "arguments": [2, 1]},
        data={"kind": "csv_file", "path": "no.csv", "target": "y"},
        likelihood={"kind": "Gaussian"},
        prior=priors.Normal(),
    )
    bnn, engine = recipe.build_model()
    assert tuple(bnn.sites) == ("weight",)
    assert isinstance(engine, engines.Turbo)


def test_the_part_to_train_on() -> None:
    splits = recipe().build()
    assert isinstance(splits.data, Splits)
    assert splits.train is splits.data.train
    for kind in ("recovery", "gated_recovery"):
        problem = recipe(data={"kind": kind, "measurements": 20}).build()
        assert [part.shape[0] for part in problem.train] == [20, 20]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"net": {"call": "math:sqrt", "arguments": [4]}},
            "math:sqrt gives no network; given: flo",
        ),
        ({"net": {"call": "torch.nn:Linear", "arguments": [4]}}, "does not take these arguments"),
        ({"prior": None}, "gives a plain network, and the recipe has no prior"),
        ({"prior": None, "likelihood": None}, "has no likelihood and no prior"),
        ({"likelihood": {"call": "torch.nn:ReLU"}}, "this is no likelihood; given: ReLU(); accept"),
        ({"net": {"call": "models/none.py:build"}}, "a file with code is not there"),
        ({"data": {"call": "pyro_turbovbi.data:nothing"}}, "pyro_turbovbi.data has no nothing"),
    ],
)
def test_what_cannot_be_built(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        recipe(**given).build()
    assert message in str(error.value)


# Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"net": {"kind": "MLP"}},
            "net.kind: unknown kind; given: 'MLP'; accepted: a mapping with",
        ),
        (
            {"net": {"call": "nothing"}},
            "net.call: this is no address of a function; given: 'nothin",
        ),
        (
            {"net": {"call": "a:b", "argument": []}},
            "net.argument: Call has no such setting (did you",
        ),
        (
            {"net": {"call": "a:b", "arguments": 3}},
            "net.arguments: arguments are of the wrong type",
        ),
        ({"data": {"kind": "digit"}}, "data.kind: unknown kind (did you mean 'digits'?)"),
        (
            {"data": {"kind": "uci"}},
            "data.name: uci needs it; given: {'kind': 'uci'}; accepted: na",
        ),
        ({"data": {"kind": "digits", "seed": "0"}}, "data.seed: the value is of the wrong type"),
        ({"data": {"kind": "Splits"}}, "data.kind: unknown kind"),
        ({"engine": {"kind": "turbo"}}, "engine.kind: unknown kind (did you mean 'Turbo'?)"),
        ({"engine": {"kind": "TurboVBI"}}, "engine.kind: unknown kind"),
        ({"engine": {"kind": "Turbo", "lr": -1}}, "engine.lr: Turbo setting 'lr' is out of range"),
        (
            {"engine": {"kind": "Turbo", "annealing": {"untl": 1}}},
            "engine.annealing.untl: SpikeAnnealing has no such setting (did you mean 'until'?)",
        ),
        (
            {"engine": {"kind": "Turbo", "annealing": {"until": 7}}},
            "engine.annealing: spike annealing is out of range; given: ",
        ),
        (
            {"engine": {"kind": "Turbo", "factorisation": "meanfield"}},
            "accepted: 'structured' or 'mean_field'",
        ),
        (
            {"engine": {"kind": "SVI", "guide": "auto"}},
            "engine.guide: unknown guide; given: 'auto'",
        ),
        (
            {"engine": {"kind": "SVI", "guide": {"call": "x"}}},
            "engine.guide.call: this is no addres",
        ),
        ({"likelihood": {"kind": "Gausian"}}, "unknown kind (did you mean 'Gaussian'?)"),
        ({"likelihood": {"kind": "Gaussian", "scale": -1}}, "likelihood.scale: noise scale is out"),
        ({"likelihood": {"kind": "Likelihood"}}, "likelihood.kind: unknown kind"),
        ({"epochs": 0}, "epochs: epochs is out of range; given: 0; accepted: 1, 2, ..."),
        ({"batch_size": -3}, "batch_size: batch_size is out of range"),
        ({"seed": 2**70}, "seed: seed is out of range"),
    ],
)
def test_errors_name_the_key(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        recipe(**given)
    assert message in str(error.value)
    assert "pydantic" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("net: {call: a:b}\n", "line 1, data: recipe needs it; "),
        ("net: 3\ndata: {kind: digits}\n", "line 1, net: this is not a network; given: 3"),
        (
            "net: {call: a:b}\ndata: {kind: digits}\n\nepoch: 3\n",
            "line 4, epoch: recipe has no such setting (did you mean 'epochs'?); given: 3",
        ),
        (
            "net: {call: a:b}\ndata: {kind: digits}\nepochs: 1.5\nprior:\n  kind: Normal\n"
            "  scale: x\n",
            "line 6, prior.scale: the value is of the wrong type; given: 'x'",
        ),
        ("- net\n", "r.yaml, line 1: the value is of the wrong type; given: ['net']"),
    ],
)
def test_errors_in_files_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(SpecError) as error:
        Recipe.load(tmp_path / "r.yaml")
    assert message in str(error.value)
