"""Trees of plain data and tensors."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.persistence.trees import join, snapshot, split

TREE: dict[str, Any] = {
    "none": None,
    "numbers": [True, 3, -(2**70), 0.1, math.inf, "text"],
    "tuple": (1, (torch.arange(3), "x")),
    "empty": [{}, [], torch.zeros(0, 2)],
    "tensors": {"a": torch.randn(2, 3, dtype=torch.float64), "b.c/d": torch.tensor(True)},
}


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit; tuples count as lists."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_tensors_are_taken_out_and_put_back() -> None:
    plain, tensors = split(TREE)
    assert len(tensors) == 4
    restored = join(json.loads(json.dumps(plain)), tensors)
    assert same(TREE, restored)


def test_a_snapshot_stays_as_it_is() -> None:
    weight = torch.zeros(3, requires_grad=True)
    taken = snapshot({"shared": [weight, weight]})
    with torch.no_grad():
        weight.add_(1.0)
    first, second = taken["shared"]
    assert not first.requires_grad
    assert torch.equal(first, torch.zeros(3))
    first.add_(2.0)
    assert torch.equal(second, torch.zeros(3)), "each place has memory of its own"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "builtins.object"),
        (Fraction(1, 2), "fractions.Fraction"),
        (np.float64(0.5), "numpy.float64"),
        ({1: 2}, "builtins.dict"),
        ({"$tensor": "0"}, "builtins.dict"),
        ({"set"}, "builtins.set"),
    ],
)
def test_anything_else_is_refused_with_its_place(value: object, kind: str) -> None:
    tree = {"engine": [0, {"state": value}]}
    for function in (split, snapshot):
        with pytest.raises(UnsupportedError) as error:
            function(tree)
        message = f"what is at /engine/1/state cannot be stored; given: {kind}; accepted: "
        assert str(error.value).startswith(message)
