"""The one optimizer over all parameters of a Turbo-VBI run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor

from pyro_turbovbi.engines.turbo.settings import LR, TurboSettings
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.families.factors import NormalFactor


def check(optim: object) -> None:
    """Refuse what `make` cannot take the rule of.

    Raises:
        InvalidArgumentError: If it is no optimiser of Pyro, or more than one: a scheduler, or one
            that clips gradients.
    """
    if isinstance(optim, PyroLRScheduler) or getattr(optim, "pt_clip_args", None):
        raise InvalidArgumentError(
            "schedulers and gradient clipping of Pyro optimisers are not supported",
            given=type(optim).__name__,
            accepted="a plain optimiser of pyro.optim, or None for the settings' own schedule",
        )
    if optim is not None and not isinstance(optim, PyroOptim):
        raise InvalidArgumentError(
            "optim is of the wrong kind",
            given=type(optim).__name__,
            accepted="an optimiser of pyro.optim, or None",
        )


def make(
    optim: PyroOptim | None,
    factors: Sequence[NormalFactor],
    others: Sequence[Tensor],
    settings: TurboSettings,
) -> torch.optim.Optimizer:
    """One torch optimizer, the logarithms of scales in a group of their own.

    Args:
        optim: Whose rule and arguments to use; None: Adam's.
        factors: Factors of the weights.
        others: Parameters that are trained as points.
        settings: The rates, where `optim` has none.

    Raises:
        InvalidArgumentError: If the arguments of `optim` differ from parameter to parameter.
    """
    points: list[Any] = [*(factor.loc for factor in factors), *others]
    groups: list[dict[str, Any]] = [
        {"params": points},
        {"params": [factor.log_scale for factor in factors]},
    ]
    if optim is None:
        made: torch.optim.Optimizer = torch.optim.Adam(groups, lr=settings.lr or LR, fused=True)
    else:
        made = _by_rule_of(optim, groups)
    made.param_groups[1]["lr"] *= settings.scale_lr
    return made


def _by_rule_of(optim: PyroOptim, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    arguments = optim.pt_optim_args
    if callable(arguments):
        raise InvalidArgumentError(
            "per-parameter optimiser arguments are not supported",
            accepted="a dict of arguments",
        )
    constructor: Any = optim.pt_optim_constructor
    made: torch.optim.Optimizer = constructor(groups, **arguments)
    return made


__all__ = ["check", "make"]
