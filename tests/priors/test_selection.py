"""Which parameter gets which prior."""

from __future__ import annotations

import doctest

import pytest

from pyro_turbovbi.errors import InvalidArgumentError, SiteError
from pyro_turbovbi.priors import Normal, Prior, by_site, selection
from pyro_turbovbi.priors.selection import as_selection

NAMES = ["body.0.weight", "body.0.bias", "body.10.weight", "head.weight"]
MATRICES = ["body.0.weight", "body.10.weight", "head.weight"]
WIDE, SMALL = Normal(1.0), Normal(0.1)


@pytest.mark.parametrize(
    ("patterns", "default", "expected"),
    [
        ({}, WIDE, dict.fromkeys(MATRICES, WIDE)),
        ({}, None, {}),
        ({"head.weight": SMALL}, None, {"head.weight": SMALL}),
        ({"body.*": SMALL}, None, dict.fromkeys(NAMES[:3], SMALL)),
        ({"body.?.weight": SMALL}, None, {"body.0.weight": SMALL}),
        ({"*.bias": SMALL}, WIDE, {**dict.fromkeys(MATRICES, WIDE), "body.0.bias": SMALL}),
        ({"head.*": None}, WIDE, dict.fromkeys(MATRICES[:2], WIDE)),
        ({"*.0.weight": SMALL, "body.*.weight": None, "*": WIDE}, None, None),
    ],
)
def test_selection(
    patterns: dict[str, Prior | None], default: Prior | None, expected: dict[str, Prior] | None
) -> None:
    chosen = by_site(patterns, default).select(NAMES, MATRICES)
    if expected is None:  # the first match wins
        expected = {"body.0.weight": SMALL, "body.0.bias": WIDE, "head.weight": WIDE}
    assert chosen == expected
    assert list(chosen) == [name for name in NAMES if name in expected], "in the net's order"


def test_patterns_are_case_sensitive_and_name_what_there_is() -> None:
    with pytest.raises(SiteError) as error:
        by_site({"head.weight": WIDE, "Head.weight": SMALL}).select(NAMES, MATRICES)
    assert str(error.value) == (
        "a prior is declared for a parameter that the net does not have; given: Head.weight; "
        "accepted: a name or shell-style pattern of "
        "body.0.weight, body.0.bias, body.10.weight, head.weight"
    )


def test_as_selection() -> None:
    ready = by_site({"head.weight": SMALL})
    assert as_selection(ready) is ready
    assert as_selection(WIDE) == by_site({}, WIDE)
    assert as_selection(None) == by_site({})


@pytest.mark.usefixtures("no_type_checks")
def test_values_are_priors() -> None:
    with pytest.raises(InvalidArgumentError) as error:
        by_site({"head.weight": 0.1})  # type: ignore[dict-item]
    assert str(error.value) == (
        "'head.weight' is given something that is not a prior; given: 0.1; "
        "accepted: an object of pyro_turbovbi.priors, or None to train as a point"
    )


def test_example_of_the_docstring() -> None:
    result = doctest.testmod(selection)
    assert result.attempted
    assert not result.failed


def test_frozen_parameters_get_no_prior() -> None:
    frozen = ["body.0.weight", "body.0.bias"]
    chosen = by_site({"body.*": SMALL}, WIDE).select(NAMES, MATRICES, frozen)
    assert chosen == {"body.10.weight": SMALL, "head.weight": WIDE}
    assert by_site({"body.0.*": None}).select(NAMES, MATRICES, frozen) == {}
    message = (
        "a prior is declared for a parameter that is frozen (requires_grad=False); given: "
        "body.0.*; accepted: parameters that are trained: body.10.weight, head.weight"
    )
    with pytest.raises(SiteError) as error:
        by_site({"body.0.*": SMALL}).select(NAMES, MATRICES, frozen)
    assert str(error.value) == message
