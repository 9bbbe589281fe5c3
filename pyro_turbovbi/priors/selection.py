"""Which parameter gets which prior: one for all weight matrices, or by patterns over names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pyro_turbovbi.errors import InvalidArgumentError, SiteError
from pyro_turbovbi.priors.base import Prior


@dataclass(frozen=True)
class BySite:
    """Priors by name pattern; made by `by_site`.

    Attributes:
        patterns: Shell-style patterns and their priors, in order: the first match wins. None: train
            as a point.
        default: Prior of the weight matrices that no pattern matches. None: train them as points.
    """

    patterns: tuple[tuple[str, Prior | None], ...]
    default: Prior | None

    def select(
        self, names: Iterable[str], matrices: Iterable[str], frozen: Iterable[str] = ()
    ) -> dict[str, Prior]:
        """Assign priors to parameters.

        Args:
            names: All parameter names of the net.
            matrices: Those that get the default prior (weight matrices of linear, convolution,
                attention layers).
            frozen: Those that are not to be trained: no prior is put on them.

        Returns:
            Prior by parameter name, in the order of `names`; parameters without a prior are left
            out.

        Raises:
            SiteError: if a pattern matches no parameter, or a prior is for none but frozen ones;
                the message lists the names.
        """
        names, matrices, frozen = list(names), set(matrices), set(frozen)
        for pattern, prior in self.patterns:
            matched = {name for name in names if fnmatchcase(name, pattern)}
            if not matched:
                raise SiteError(
                    "a prior is declared for a parameter that the net does not have",
                    given=pattern,
                    accepted=f"a name or shell-style pattern of {', '.join(names)}",
                )
            if prior is not None and matched <= frozen:
                raise SiteError(
                    "a prior is declared for a parameter that is frozen (requires_grad=False)",
                    given=pattern,
                    accepted="parameters that are trained: "
                    + ", ".join(name for name in names if name not in frozen),
                )
        chosen = {
            name: self._prior_of(name, name in matrices) for name in names if name not in frozen
        }
        return {name: prior for name, prior in chosen.items() if prior is not None}

    def _prior_of(self, name: str, is_matrix: bool) -> Prior | None:
        for pattern, prior in self.patterns:
            if fnmatchcase(name, pattern):
                return prior
        return self.default if is_matrix else None


def by_site(patterns: Mapping[str, Prior | None], default: Prior | None = None) -> BySite:
    """Declare priors by parameter name.

    Args:
        patterns: ``{pattern: prior}``; shell-style patterns (``*``, ``?``, ``[seq]``) over the
            names of ``net.named_parameters()``. The first matching pattern wins. None trains the
            parameter as a point. Parameters that are frozen (``requires_grad=False``) stay as they
            are, whatever a pattern says.
        default: Prior of weight matrices that no pattern matches; None (default) trains them as
            points.

    Returns:
        What `ptv.lift` takes as ``prior``.

    Raises:
        InvalidArgumentError: if a value is neither a prior nor None.

    Example:
        >>> from pyro_turbovbi import priors
        >>> selection = priors.by_site({"0.weight": priors.Normal(0.1)}, default=priors.Normal(1.0))
        >>> selection.default
        Normal(scale=1.0)
    """
    for pattern, prior in [*patterns.items(), ("default", default)]:
        if prior is not None and not isinstance(prior, Prior):
            raise InvalidArgumentError(
                f"{pattern!r} is given something that is not a prior",
                given=prior,
                accepted="an object of pyro_turbovbi.priors, or None to train as a point",
            )
    return BySite(tuple(patterns.items()), default)


def as_selection(prior: Prior | BySite | None) -> BySite:
    """One prior for every weight matrix, or a ready selection.

    Raises:
        InvalidArgumentError: if `prior` is something else.
    """
    return prior if isinstance(prior, BySite) else by_site({}, default=prior)
