"""How regular the supports of all methods are where all keep equally many weights.

A method's own support is cut further, to its weights that stand out most: by |mean| / scale where
it has posterior scales, otherwise by |mean|. Methods that keep fewer weights have no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import error_percent, summary
from benchmarks.frontier_cases import cases
from benchmarks.frontier_cases.cases import CASES
from benchmarks.frontier_cases.measure import cut, regularity_of
from benchmarks.frontier_cases.methods import methods_of
from benchmarks.frontier_cases.runs import Run, environment, kept
from benchmarks.frontier_cases.training import Trained


def strongest(trained: Trained, count: int) -> Trained | None:
    """The same network with the `count` weights of its support that stand out most.

    Args:
        trained: What a method gave.
        count: How many weights stay.

    Returns:
        The network and its new masks; None if its support is smaller than that.
    """
    scores = {name: _score(trained, name) for name in trained.masks}
    every = torch.cat([scores[name][mask] for name, mask in trained.masks.items()])
    if len(every) < count:
        return None
    threshold = every.kthvalue(len(every) - count + 1).values
    masks = {name: mask & (scores[name] >= threshold) for name, mask in trained.masks.items()}
    return replace(trained, masks=masks)


def _score(trained: Trained, name: str) -> Tensor:
    size = trained.net.get_parameter(name).detach().abs()
    scale = trained.scales.get(name)
    return size if scale is None else size / scale.clamp(min=1e-12)


def figures(case: str, trained: Trained, density: float) -> dict[str, float] | None:
    """Error and regularity of a network at a density; None if it keeps fewer weights.

    Args:
        case: Name of the case.
        trained: What a method gave.
        density: Share of all weights.
    """
    total = sum(mask.numel() for mask in trained.masks.values())
    reduced = strongest(trained, round(density * total))
    if reduced is None:
        return None
    train, test = cases.parts(case, "final")
    small = cut(reduced, train)
    return {
        "test_error_percent": error_percent(small.module, test),
        "weights_left_percent": 100.0 * small.report.weights_left,
        **regularity_of(small),
    }


def table(case: str, seeds: Sequence[int], density: float) -> dict[str, Any]:
    """A row for every method whose networks are kept, in the format of `tools/make_tables.py`.

    Args:
        case: Name of the case.
        seeds: Seeds of the rows.
        density: Share of all weights.
    """
    rows = []
    for method in methods_of(case):
        networks = {seed: kept(Run(case, method, seed)) for seed in seeds}
        found = {
            seed: measured
            for seed, trained in networks.items()
            if trained is not None and (measured := figures(case, trained, density)) is not None
        }
        if found:
            columns = next(iter(found.values()))
            values = {key: summary([one[key] for one in found.values()]) for key in columns}
            rows.append({"method": method, "seeds": list(found), **values})
    return {
        "case": f"Regularity at equal density: {CASES[case].title}",
        "protocol": f"The networks of the frontier, each with the {100 * density:g} % of all "
        "weights that stand out most in its own support (|mean| over posterior scale where there "
        "is one), without further training; hidden units re-ordered; dead units cut, so that some "
        "fewer weights are left",
        "device": environment("cpu")["device"],
        "readme": False,
        "rows": rows,
    }
