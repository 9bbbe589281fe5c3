"""Grid support: active elements cluster along rows and columns of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_turbovbi.distributions.support import (
    EXACT_EVIDENCE,
    Request,
    Solution,
    SupportDistribution,
    SupportPosterior,
    matrix_shape,
    missing_transitions,
    probability,
)
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError
from pyro_turbovbi.kernels import ChainLaw, GridTransitions, grid_posterior
from pyro_turbovbi.kernels.baum_welch import bounded, maximise_run, shortest_run
from pyro_turbovbi.kernels.prior import chain_log_prob, sample_grids


class MarkovGridSupport(SupportDistribution):
    """A chain along every row and every column, solved by loopy message passing.

    The prior is `prod_rows chain(row) prod_columns chain(column) / prod_n Bernoulli(s_n; density)`.
    `log_prob` is the logarithm of this product: it lacks the normaliser, which is intractable. The
    normaliser is exactly 1 if either direction has no coupling, and is 1 in the Bethe approximation
    always, so `log_evidence` (Bethe) refers to the same product.

    Couplings of both directions add up, so that the law has two phases, a sparse and a dense one,
    and the marginal probability of an active element is not `density`. A full matrix outweighs an
    empty one wherever `p11_row p11_column / density` exceeds `p00_row p00_column / (1 - density)`:
    at density 0.05 already from mean runs of 1.3 on. Samples of such a prior drift towards full
    matrices. Its posterior is sparser than `density` where the evidence is slightly negative on
    average, and dense where it is zero on average; a chain has no such threshold.

    Args:
        event_shape: Shape of the support tensor, at least two dims.
        density: Stationary probability of an active element, a number or a scalar tensor in (0, 1].
        mean_run: Mean run lengths of the chain laws along rows and along columns, numbers or scalar
            tensors; `1 / (1 - density)` means no coupling.
        sweeps: Largest number of row and column passes of the posterior.
        damping: Weight of the previous column message in each update, in [0, 1).
        tolerance: Stop when no message changes by more than this many nats in a sweep; 0 runs all
            sweeps.
        dims: The dims of the tensor along which columns and rows run; elements that differ in
            further dims belong to independent grids. None is the matrix view (out, everything
            else).
        gibbs_sweeps: Updates of every element when sampling (checkerboard Gibbs from independent
            rows; exact in the limit, and exact at once without coupling).
        validate_args: Whether `log_prob` checks its argument; None is torch's default.

    Raises:
        InvalidArgumentError: If `density` or a transition probability is no probability above 0, or
            the message schedule is out of range.
        ShapeError: If the support has fewer than two dims, no such dims or no elements.
    """

    arg_constraints = {  # noqa: RUF012
        "density": constraints.unit_interval,
        "row_run": constraints.greater_than_eq(1.0),
        "column_run": constraints.greater_than_eq(1.0),
    }

    def __init__(
        self,
        event_shape: Sequence[int],
        density: Any,
        mean_run: tuple[Any, Any],
        *,
        sweeps: int = 2,
        damping: float = 0.0,
        tolerance: float = 0.0,
        dims: tuple[int, int] | None = None,
        gibbs_sweeps: int = 50,
        validate_args: bool | None = None,
    ) -> None:
        shape = torch.Size(event_shape)
        if len(shape) < 2:
            raise ShapeError(
                "a grid needs rows and columns",
                given=f"a support of shape {tuple(shape)}",
                accepted="a support with at least two dims; for a vector use a chain",
            )
        if sweeps < 1 or gibbs_sweeps < 0 or not 0.0 <= damping < 1.0 or not tolerance >= 0.0:
            raise InvalidArgumentError(
                "the message schedule is out of range",
                given=f"{sweeps=}, {damping=}, {tolerance=}, {gibbs_sweeps=}",
                accepted="sweeps >= 1, 0 <= damping < 1, tolerance >= 0, gibbs_sweeps >= 0",
            )
        self._density = probability(density, "density")
        self.row_run, self.column_run = (torch.as_tensor(m, dtype=torch.float64) for m in mean_run)
        self.sweeps, self.damping, self.tolerance = sweeps, damping, tolerance
        self.dims, self.gibbs_sweeps = dims, gibbs_sweeps
        self._view, self._axes = _axes(shape, dims)
        self._transitions()
        super().__init__(shape, validate_args=validate_args)

    @property
    def density(self) -> Tensor:
        """Stationary probability of an active element, a scalar in double precision."""
        return self._density

    @property
    def laws(self) -> tuple[ChainLaw, ChainLaw]:
        """Laws of the chains along the rows and along the columns, as plain floats."""
        row, column = (ChainLaw(p01.item(), p10.item()) for p01, p10 in self._transitions())
        return row, column

    def maximise(self, posterior: SupportPosterior) -> MarkovGridSupport:
        """M-step on density and mean runs, as if the prior were normalised.

        Unlike a chain's, this step can lower the evidence: the normaliser, which it leaves out,
        depends on the parameters, and a strong coupling in one direction also shows in the counts
        of the other.

        Args:
            posterior: A posterior under this distribution, with `pairwise`.

        Returns:
            A new distribution; every probability is kept within [1e-6, 1 - 1e-6].

        Raises:
            InvalidArgumentError: If the posterior lacks the expected transition counts.
        """
        if not isinstance(posterior.pairwise, GridTransitions):
            raise missing_transitions(posterior.pairwise)
        density = bounded(float(posterior.probs.double().mean()))
        runs = (
            maximise_run(density, counts.double().reshape(-1, 2, 2).sum(0).tolist())
            if counts.sum() > 0  # a grid of one row has no vertical pairs
            else max(run.item(), shortest_run(density))
            for counts, run in zip(posterior.pairwise, (self.row_run, self.column_run), strict=True)
        )
        row_run, column_run = runs
        return self.with_parameters(
            {"density": density, "row_run": row_run, "column_run": column_run}
        )

    def with_parameters(self, values: Mapping[str, Any]) -> MarkovGridSupport:
        """See `SupportDistribution.with_parameters`."""
        new = MarkovGridSupport(
            self.event_shape,
            values["density"],
            (values["row_run"], values["column_run"]),
            sweeps=self.sweeps,
            damping=self.damping,
            tolerance=self.tolerance,
            dims=self.dims,
            gibbs_sweeps=self.gibbs_sweeps,
            validate_args=self._validate_args,
        )
        return new.expand(self.batch_shape)

    def _transitions(self) -> list[tuple[Tensor, Tensor]]:
        odds = self._density / (1 - self._density)
        return [
            (
                probability(odds / run, f"p01 of the {name} law"),
                probability(1 / run, f"p10 of the {name} law"),
            )
            for name, run in (("row", self.row_run), ("column", self.column_run))
        ]

    def _solve(self, llr: Tensor, wanted: Request) -> Solution:
        batch = llr.shape[: llr.dim() - len(self.event_shape)]
        local = llr.reshape(*batch, *self._view)
        messages = (
            torch.empty_like(wanted.extrinsic) if wanted.messages is None else wanted.messages
        )
        row, column = self.laws
        solved = grid_posterior(
            local,
            row,
            column,
            dims=self._axes,
            event_dims=len(self._view),
            sweeps=self.sweeps,
            damping=self.damping,
            tolerance=self.tolerance,
            start=None if wanted.start is None else wanted.start.reshape(local.shape),
            pairwise=wanted.pairwise,
            log_evidence=wanted.log_evidence,
            out=(wanted.extrinsic.view(local.shape), messages.view(local.shape)),
        )
        return Solution(solved.transitions, solved.log_evidence, messages)

    def _log_evidence(self, llr: Tensor) -> Tensor:
        raise UnsupportedError(
            "a grid's normaliser is intractable, so its log-evidence is not known",
            given="a support prior with chains along rows and columns",
            accepted=f"{EXACT_EVIDENCE}; for a Bethe approximation, without a gradient, "
            "posterior(llr).log_evidence",
        )

    def _draw(self, count: int) -> Tensor:
        row, column = self.laws
        rows, columns = (self._view[axis] for axis in self._axes)
        others = [n for i, n in enumerate(self._view, -len(self._view)) if i not in self._axes]
        grids = sample_grids(
            count * torch.Size(others).numel(),
            rows,
            columns,
            row,
            column,
            sweeps=self.gibbs_sweeps,
            device=self._density.device,
        )
        return grids.view(count, *others, rows, columns).movedim((-2, -1), self._axes)

    def _total_log_prob(self, value: Tensor) -> Tensor:
        states = value.reshape(-1, *self._view)
        (row01, row10), (column01, column10) = self._transitions()
        down, across = self._axes
        rows = chain_log_prob(states, row01, row10, dim=across).flatten(1).sum(1)
        columns = chain_log_prob(states, column01, column10, dim=down).flatten(1).sum(1)
        ones = states.double().flatten(1).sum(1)
        zeros = self.event_shape.numel() - ones
        return rows + columns - ones * self._density.log() - zeros * torch.log1p(-self._density)


def _axes(shape: torch.Size, dims: tuple[int, int] | None) -> tuple[torch.Size, tuple[int, int]]:
    """The view of a support, and the axes of columns and rows counted from its end."""
    if dims is None:
        return matrix_shape(shape), (-2, -1)
    rank = len(shape)
    down, across = (dim % rank if -rank <= dim < rank else None for dim in dims)
    if down is None or across is None or down == across:
        raise ShapeError(
            "columns and rows run along no such dims",
            given=f"dims {dims} of a support of shape {tuple(shape)}",
            accepted="None or two different dims of the support",
        )
    return shape, (down - rank, across - rank)
