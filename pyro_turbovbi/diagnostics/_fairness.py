"""What a comparison may conclude: which ELBOs can be ranked, and whether all fits had the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from string import ascii_lowercase
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import nn

from pyro_turbovbi.diagnostics.protocols import FitLike
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.priors.three_layer import ThreeLayer
from pyro_turbovbi.training import Training

#: Kinds of ELBO that bound nothing.
UNBOUND = ("Bethe", "log joint")


@runtime_checkable
class Compared(Protocol):
    """What the remarks are made from: a row of a comparison."""

    @property
    def name(self) -> str: ...
    @property
    def training(self) -> Training | None: ...
    @property
    def elbo(self) -> float | None: ...
    @property
    def elbo_kind(self) -> str | None: ...
    @property
    def elbo_group(self) -> str | None: ...
    @property
    def likelihood(self) -> str: ...
    @property
    def priors(self) -> Mapping[str, str]: ...
    @property
    def learned(self) -> Sequence[str]: ...


class _Evidence(NamedTuple):
    """What has to agree for two ELBOs to bound the same log-evidence."""

    data: tuple[int, str]
    net: str
    likelihood: str
    priors: Mapping[str, Any]
    learned: frozenset[str]


def elbo_groups(fits: Mapping[str, FitLike]) -> dict[str, str | None]:
    """A letter for every fit: ELBOs of the same letter bound the same log-evidence.

    Parameters that are trained as points do not divide: every such ELBO bounds the greatest
    log-evidence over them. Nor does it matter which of a prior's layers are summed out. Learned
    hyper-parameters do: theirs is the greatest log-evidence over the hyper-parameters.

    Returns:
        Letters by name of the fit; None where there is no ELBO or it bounds nothing.
    """
    found: list[_Evidence] = []
    letters: dict[str, str | None] = dict.fromkeys(fits)
    for name, fit in fits.items():
        if fit.elbo is None or fit.elbo_kind in UNBOUND:
            continue
        evidence = _evidence(fit)
        if evidence not in found:
            found.append(evidence)
        letters[name] = _letter(found.index(evidence))
    return letters


def likelihood_words(likelihood: Any) -> str:
    """A likelihood with all that is not learned of it."""
    settings: dict[str, Any] = {
        name: value
        for name, value in vars(likelihood).items()
        if isinstance(value, bool | int | float | str) and not name.startswith("_")
    }
    settings.pop("training", None)
    if isinstance(likelihood, nn.Module):
        settings |= {name: value.tolist() for name, value in likelihood.named_buffers()}
    inside = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return f"{type(likelihood).__name__}({inside})"


def elbo_remarks(rows: Sequence[Compared]) -> list[str]:
    """What the letters beside the ELBOs mean for these rows; nothing for a single ELBO."""
    marked = [row for row in rows if row.elbo_group is not None]
    if len(marked) < 2:
        return []
    letters = _names_by(marked, lambda row: row.elbo_group, lambda row: str(row.elbo_group))
    remarks = []
    if len(letters) < len(marked):
        remarks.append(
            "ELBOs with the same letter bound the same log-evidence: the higher, the closer to it"
        )
    remarks += [
        f"{letter}: the same prior, written or summed out in different ways"
        for letter in letters
        if len({_words(row.priors) for row in marked if row.elbo_group == letter}) > 1
    ]
    data = _names_by(marked, _data, lambda row: str(row.elbo_group))
    if len(letters) > len(data):
        remarks.append(
            f"ELBOs with different letters are of different models ({_differences(marked)}): the "
            "higher speaks for its model, as far as both bounds are tight"
        )
    if len(data) > 1:
        sides = " | ".join(", ".join(dict.fromkeys(side)) for side in data.values())
        remarks.append(f"ELBOs of different data cannot be compared: {sides}")
    cold = [row for row in marked if row.training and row.training.kl_weight != 1.0]
    if cold:
        weights = _names_by(cold, lambda row: row.training and row.training.kl_weight, _name)
        sides = "; ".join(f"{weight:g}: {_listed(names)}" for weight, names in weights.items())
        remarks.append(f"where the KL weight is not 1, not the ELBO was maximised ({sides})")
    return remarks


def training_remark(rows: Sequence[Compared]) -> str | None:
    """In what the trainings differed; None where in nothing, or where it is not known."""
    known = [(row.name, row.training) for row in rows if row.training is not None]
    parts = [
        _unlike("epochs", known, lambda t: t.epochs, lambda t: f"{t.epochs:,}"),
        _unlike("batch size", known, lambda t: t.batch_size, lambda t: f"{t.batch_size:,}"),
        _unlike("seed", known, lambda t: t.seed, lambda t: str(t.seed)),
        _unlike("data", known, lambda t: (t.num_data, t.data), lambda t: f"{t.num_data:,} points"),
        _unlike("start weights", known, lambda t: t.start, None),
    ]
    unlike = [part for part in parts if part]
    return f"not like with like in {'; '.join(unlike)}" if unlike else None


def _evidence(fit: FitLike) -> _Evidence:
    bnn, training = fit.bnn, fit.training
    shapes = [(name, tuple(value.shape)) for name, value in bnn.net.named_parameters()]
    return _Evidence(
        (training.num_data, training.data),
        f"{bnn.net!r} {shapes}",
        likelihood_words(bnn.likelihood),
        {name: _marginal(site) for name, site in bnn.sites.items()},
        frozenset(fit.learned),
    )


def _marginal(site: WeightSite) -> Any:
    """A prior without what does not change the law of its weight."""
    prior = site.prior
    if not isinstance(prior, ThreeLayer):
        return prior
    bare = replace(prior, active=None, inactive=None, collapse=False)
    return bare, prior.components(site.shape)


def _letter(index: int) -> str:
    """a, b, ..., z, a2, b2, ..."""
    turn, place = divmod(index, len(ascii_lowercase))
    return ascii_lowercase[place] + (str(turn + 1) if turn else "")


def _data(row: Compared) -> tuple[int, str] | None:
    return None if row.training is None else (row.training.num_data, row.training.data)


def _words(priors: Mapping[str, str]) -> str:
    return repr(sorted(priors.items()))


def _differences(rows: Iterable[Compared]) -> str:
    aspects: dict[str, Callable[[Compared], Hashable]] = {
        "priors": lambda row: _words(row.priors),
        "learned hyper-parameters": lambda row: tuple(row.learned),
        "likelihoods": lambda row: row.likelihood,
    }
    found = [name for name, of in aspects.items() if len({of(row) for row in rows}) > 1]
    return ", ".join(found or ["nets"])


def _names_by(
    rows: Iterable[Compared],
    key: Callable[[Compared], Hashable],
    name: Callable[[Compared], str],
) -> dict[Any, list[str]]:
    groups: dict[Any, list[str]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(name(row))
    return groups


def _name(row: Compared) -> str:
    return row.name


def _listed(names: Iterable[str]) -> str:
    """Names in a row; one with a comma of its own in quotation marks."""
    return ", ".join(f'"{name}"' if "," in name else name for name in names)


def _unlike(
    what: str,
    known: Sequence[tuple[str, Training]],
    key: Callable[[Training], Hashable],
    show: Callable[[Training], str] | None,
) -> str | None:
    """What differs, as in `epochs (10: map | 30: all others)`; None where all agree."""
    groups: dict[Hashable, list[str]] = {}
    shown: dict[Hashable, str] = {}
    for name, training in known:
        groups.setdefault(key(training), []).append(name)
        shown[key(training)] = "" if show is None else f"{show(training)}: "
    if len(groups) < 2:
        return None
    *few, most = sorted(groups, key=lambda value: len(groups[value]))
    sides = [shown[value] + _listed(groups[value]) for value in few]
    sides.append(shown[most] + ("all others" if len(groups[most]) > 1 else _listed(groups[most])))
    return f"{what} ({' | '.join(sides)})"
