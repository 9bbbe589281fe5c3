"""Priors as plain data: exact round trips, and errors that say where and what."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import hypothesis
import pyro.distributions as dist
import pytest
import tomli_w
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import pyro_turbovbi as ptv
from pyro_turbovbi import priors, supports
from pyro_turbovbi.errors import InvalidArgumentError, SpecError, UnsupportedError
from pyro_turbovbi.priors import BySite, Prior, from_spec, spec, to_spec
from pyro_turbovbi.specs import documents
from pyro_turbovbi.specs.families import Setting, settings_of

# Every kind there is, at random ----------------------------------------------------------------

#
# Strategies draw classes with their arguments, and the tests make the objects: type checks of the
# test run draw random numbers themselves, which Hypothesis does not allow while it draws.

Drawn = Callable[[], Any]


def drawn_from(function: Callable[..., Any], *arguments: st.SearchStrategy[Any]) -> Any:
    def made(values: tuple[Any, ...]) -> Drawn:
        return lambda: function(*(v() if callable(v) else v for v in values))

    return st.tuples(*arguments).map(made)


DENSITIES = st.floats(0.01, 0.9)
RUNS = st.floats(10.0, 1e6) | st.integers(10, 1000)
LAWS = st.tuples(DENSITIES, RUNS)
DIMS = st.integers(-3, 3)
SIZES = st.integers(1, 9)
POSITIVE = st.floats(1e-30, 1e30, allow_subnormal=False)

SUPPORTS = st.recursive(
    drawn_from(supports.Independent, DENSITIES)
    | drawn_from(supports.Chain, DENSITIES, RUNS, st.none() | DIMS)
    | drawn_from(
        supports.Grid,
        DENSITIES,
        RUNS | st.tuples(RUNS, RUNS),
        SIZES,
        st.floats(0.0, 0.99),
        st.floats(0.0, 1.0),
        st.none() | st.tuples(DIMS, DIMS),
    )
    | drawn_from(supports.Gated, LAWS, LAWS, DIMS, st.none() | DIMS),
    lambda inner: drawn_from(supports.Blocks, st.tuples(SIZES, SIZES), inner),
    max_leaves=3,
)


def gamma(concentration: float, rate: float, double: bool) -> dist.Gamma:
    dtype = torch.float64 if double else torch.float32
    tensors = (torch.tensor(value, dtype=dtype) for value in (concentration, rate))
    return dist.Gamma(*tensors)


def three_layer(support: Any, active: Any, inactive: Any, collapse: bool) -> priors.ThreeLayer:
    try:
        return priors.ThreeLayer(support, active, inactive, collapse=collapse)
    except UnsupportedError:  # over a grid
        return priors.ThreeLayer(support, active, inactive)


ACTIVE = drawn_from(gamma, st.floats(0.5, 1.0), st.floats(10.0, 1e4), st.booleans())
INACTIVE = drawn_from(gamma, st.floats(1.0, 9.0), st.floats(1e-9, 0.1), st.booleans())
THREE_LAYERS = drawn_from(
    three_layer, SUPPORTS, st.none() | ACTIVE, st.none() | INACTIVE, st.booleans()
)


def values_of(setting: Setting) -> st.SearchStrategy[Any]:
    """Values of a plain setting, by its type; a class may refuse them."""
    parts = get_args(setting.annotation) or (setting.annotation,)
    known: dict[Any, st.SearchStrategy[Any]] = {
        float: st.floats(0.01, 0.9) | POSITIVE,
        int: st.integers(1, 5),
        bool: st.booleans(),
        type(None): st.none(),
    }
    chosen = [known[part] for part in parts if part in known]
    others = [] if setting.required else [st.just(setting.default)]
    return st.one_of(*chosen, *others)


def other_prior(kind: str) -> Any:
    """Any exported prior of plain settings, and so also one that is not written yet."""
    member = spec.prior_family().members[kind]
    settings = settings_of(member)

    def made(*values: Any) -> Any:
        try:
            return member(**dict(zip(settings, values, strict=True)))
        except InvalidArgumentError:
            return member()

    return drawn_from(made, *(values_of(s) for s in settings.values()))


PRIORS = THREE_LAYERS | st.one_of(
    *(other_prior(kind) for kind in spec.prior_family().members if kind != "ThreeLayer")
)
PATTERNS = st.sampled_from(["*", "*.bias", "0.weight", "body.?.[ab]", "default", "kind", "1e-3"])
SELECTIONS = drawn_from(
    lambda patterns, default: priors.by_site(
        {name: prior and prior() for name, prior in patterns.items()}, default
    ),
    st.dictionaries(PATTERNS, st.none() | PRIORS, max_size=3),
    st.none() | PRIORS,
)
few = hypothesis.settings(max_examples=50)


@few
@given(drawn=PRIORS | SELECTIONS)
def test_round_trip(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> None:
    prior: Prior | BySite = drawn()
    plain = to_spec(prior)
    assert from_spec(plain) == prior
    assert to_spec(from_spec(plain)) == plain
    assert from_spec(json.loads(json.dumps(plain))) == prior
    folder = tmp_path_factory.mktemp("spec")
    for name in ("prior.yaml", "prior.toml"):
        documents.write(folder / name, plain)
        assert from_spec(folder / name) == prior
        assert from_spec(str(folder / name)) == prior


@few
@given(drawn=PRIORS | SELECTIONS)
def test_round_trip_through_the_usual_writers(
    drawn: Drawn, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prior: Prior | BySite = drawn()
    assert from_spec(tomllib.loads(tomli_w.dumps(to_spec(prior)))) == prior
    path = tmp_path_factory.mktemp("spec") / "prior.yaml"
    path.write_text(yaml.safe_dump(to_spec(prior), sort_keys=False))
    assert from_spec(path) == prior


@pytest.mark.parametrize("kind", sorted(spec.prior_family().members))
def test_every_exported_prior_has_a_kind(kind: str) -> None:
    prior = from_spec({"kind": kind})
    assert prior == getattr(priors, kind)()
    assert from_spec(to_spec(prior)) == prior


def test_every_declared_support_has_a_kind() -> None:
    declared = {"Independent", "Chain", "Grid", "Gated", "Blocks"}
    assert declared <= set(spec.support_family().members)
    for kind, support in spec.support_family().members.items():
        made = from_spec({"kind": "ThreeLayer", "support": {"kind": kind}})
        assert made == priors.ThreeLayer(support())


def test_the_order_of_patterns_is_kept(tmp_path: Path) -> None:
    selection = priors.by_site({"0.*": priors.Normal(1.0), "*.bias": None, "*": priors.Normal(2.0)})
    documents.write(tmp_path / "p.toml", to_spec(selection))
    read = from_spec(tmp_path / "p.toml")
    assert isinstance(read, BySite)
    assert read.patterns == selection.patterns


def test_gammas_keep_their_numbers() -> None:
    written = {"concentration": 0.1, "rate": 1e-7}
    prior = from_spec({"kind": "ThreeLayer", "inactive": written})
    assert to_spec(prior)["inactive"] == written
    shape = torch.Size([3, 4])
    assert isinstance(prior, priors.ThreeLayer)
    assert prior.components(shape).inactive == (0.1, 1e-7)
    assert prior.sample("w", shape).dtype == torch.float32


# What may be written ---------------------------------------------------------------------------

CHAIN = {"kind": "Chain", "density": 0.1}
YAML = """\
sites:
  "*.bias": null
  0.weight:
    kind: ThreeLayer
    support: {kind: Chain, density: 1e-1}
  "2.*": {kind: Point}
default: {kind: Normal, scale: 2}
"""


def test_by_site_in_yaml(tmp_path: Path) -> None:
    (tmp_path / "prior.yaml").write_text(YAML)
    three = priors.ThreeLayer(supports.Chain(0.1))
    expected = priors.by_site(
        {"*.bias": None, "0.weight": three, "2.*": None}, default=priors.Normal(2.0)
    )
    assert from_spec(tmp_path / "prior.yaml") == expected


def test_lift_takes_what_a_specification_gives() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 2))
    prior = from_spec({"sites": {"0.bias": {"kind": "Normal"}}, "default": {"kind": "Normal"}})
    bnn = ptv.lift(net, likelihood=ptv.likelihoods.Categorical(), prior=prior)
    assert list(bnn.sites) == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    "given", [{"sites": {}}, {"default": None}, {"sites": {}, "default": {"kind": "Point"}}]
)
def test_selections_of_nothing(given: dict[str, Any]) -> None:
    assert from_spec(given) == priors.by_site({})


# Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "'kind' is missing; given: {}; accepted: a mapping with kind: "),
        ({"kind": "normal"}, "kind: unknown kind (did you mean 'Normal'?); given: 'normal'"),
        ({"kind": "three_layer"}, "kind: unknown kind (did you mean 'ThreeLayer'?)"),
        ({"kind": "Point"}, "kind: unknown kind; given: 'Point'"),
        ({"kind": "Prior"}, "kind: unknown kind"),
        ({"kind": None}, "kind: unknown kind; given: null"),
        ({"kind": "Normal", "scal": 1}, "scal: Normal has no such setting (did you mean 'scale'?)"),
        ({"kind": "Normal", "scale": "1"}, "given: '1'; accepted: a number"),
        ({"kind": "Normal", "scale": None}, "given: null; accepted: a number"),
        ({"kind": "Normal", "scale": -1}, "scale: scale of a Normal prior is out of range"),
        ({"kind": "Normal", "scale": float("nan")}, "scale: scale of a Normal prior is out of"),
        ({"kind": "Normal", "scale": 10**400}, "scale: the value is of the wrong type"),
        ({"kind": "ThreeLayer", "support": "Chain"}, "support: this is not a support prior"),
        ({"kind": "ThreeLayer", "support": None}, "support: this is not a support prior"),
        ({"kind": "ThreeLayer", "_explicit": None}, "_explicit: ThreeLayer has no such setting"),
        (
            {"kind": "ThreeLayer", "support": {"kind": "Chain", "density": 2}},
            "support.density: density is no probability strictly between 0 and 1; given: 2; "
            "accepted: a number in (0, 1), e.g. 0.05",
        ),
        (
            {"kind": "ThreeLayer", "support": {"kind": "Chain", "mean_run": 0.5}},
            "support.mean_run: no chain of density 0.05 has this mean_run; given: 0.5",
        ),
        (
            {"kind": "ThreeLayer", "support": CHAIN | {"dim": 1.0}},
            "support.dim: the value is of th",
        ),
        (
            {"kind": "ThreeLayer", "support": {"kind": "Grid", "mean_run": [1.5]}},
            "support.mean_run: mean_run of a grid is not understood; given: [1.5]",
        ),
        (
            {"kind": "ThreeLayer", "support": {"kind": "Grid", "sweeps": True}},
            "support.sweeps: the value is of the wrong type; given: True; accepted: an integer",
        ),
        (
            {"kind": "ThreeLayer", "support": {"kind": "Gated", "gate": [0.5, 0.1]}},
            "support.gate: ",
        ),
        (
            {"kind": "ThreeLayer", "support": {"kind": "Blocks", "support": {"kind": "Blok"}}},
            "support.support.kind: unknown kind (did you mean 'Blocks'?)",
        ),
        ({"kind": "ThreeLayer", "active": {"concentration": 1}}, "active.rate: Gamma needs it"),
        (
            {"kind": "ThreeLayer", "active": {"concentration": 1, "rate": 0}},
            "active.rate: rate is out of range; given: 0; accepted: a positive finite number",
        ),
        ({"kind": "ThreeLayer", "active": 3}, "active: the value is of the wrong type"),
        (
            {
                "kind": "ThreeLayer",
                "active": {"concentration": 1, "rate": 1},
                "inactive": {"concentration": 1, "rate": 2},
            },
            "the active component must allow larger weights than the inactive one",
        ),
        (
            {"sites": {"a": {"kind": "Norml"}}},
            "sites.a.kind: unknown kind (did you mean 'Normal'?)",
        ),
        ({"sites": {"a.b": 0.1}}, 'sites["a.b"]: this is not a prior; given: 0.1'),
        ({"sites": {1: None}}, "sites: a key is no string; given: 1"),
        (
            {"sites": None},
            "sites: the value is of the wrong type; given: null; accepted: a mapping",
        ),
        (
            {"sites": {}, "defaults": None},
            "defaults: by_site has no such setting (did you mean 'de",
        ),
        ({"sites": {}, "default": {"sites": {}}}, "default: 'kind' is missing"),
        ({"site": {}}, "'kind' is missing; given: {'site': {}}; "),
    ],
)
def test_errors_name_the_key(given: dict[Any, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        from_spec(given)
    assert isinstance(error.value, SpecError)
    assert message in str(error.value)
    assert "pydantic" not in str(error.value)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("given", [3, None, [], priors.Normal()])
def test_other_objects_are_no_specification(given: Any) -> None:
    with pytest.raises(SpecError, match=r"this is not a prior; given: .* accepted: a mapping with"):
        from_spec(given)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "prior.yaml",
            "kind: ThreeLayer\nsupport:\n  kind: Chain\n  densty: 0.1\n",
            "line 4, support.densty: Chain has no such setting (did you mean 'density'?); "
            "given: 0.1; accepted: density, mean_run, dim",
        ),
        (
            "prior.yaml",
            YAML.replace("1e-1", "1e1"),
            'line 5, sites["0.weight"].support.density: density is no probability',
        ),
        ("prior.yaml", "# empty\n", "prior.yaml: this is not a prior; given: null"),
        ("prior.yaml", "\n\nsupport: {}\n", "prior.yaml, line 3: 'kind' is missing"),
        (
            "prior.yaml",
            "kind: ThreeLayer\nactive:\n  rate: 1\n",
            "line 2, active.concentration: Gam",
        ),
        (
            "prior.toml",
            'kind = "ThreeLayer"\n\n[support]\nkind = "Gated"\ngate = [\n 0.5,\n 0.1]\n',
            "line 5, support.gate: ",
        ),
        (
            "prior.toml",
            '# sites\n[sites."*.bias"]\nkind = "Point"\n[default]\nkind = "Normal"\nscale = "1"\n',
            "line 6, default.scale: the value is of the wrong type; given: '1'; accepted: a number",
        ),
        (
            "prior.toml",
            'kind = "ThreeLayer"\nsupport = 2024-01-01\n',
            "line 2, support: this is not",
        ),
    ],
)
def test_errors_in_files_name_the_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InvalidArgumentError) as error:
        from_spec(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_missing_files() -> None:
    with pytest.raises(InvalidArgumentError, match=r"nowhere.yaml cannot be read; given: No such"):
        from_spec("nowhere.yaml")
    with pytest.raises(InvalidArgumentError, match=r"given: Normal; accepted: .yaml, .yml, .toml"):
        from_spec("Normal")


class MySupport:
    def distribution(self, shape: Any) -> Any: ...


def test_classes_of_your_own_cannot_be_written() -> None:
    mine = priors.ThreeLayer(MySupport())
    with pytest.raises(SpecError, match="only a support prior of this package can be written"):
        to_spec(mine)

    class MyNormal(priors.Normal):
        pass

    with pytest.raises(SpecError, match="only a prior of this package can be written"):
        to_spec(MyNormal())
    twice = BySite((("a", None), ("a", priors.Normal())), None)
    with pytest.raises(SpecError, match="a pattern is there twice"):
        to_spec(twice)


def test_importing_the_package_imports_no_schema_library() -> None:
    program = (
        "import sys, pyro_turbovbi\n"
        "print(sorted({'pydantic', 'yaml', 'tomli_w'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_example_of_the_docstring() -> None:
    result = doctest.testmod(spec)
    assert result.attempted
    assert not result.failed
