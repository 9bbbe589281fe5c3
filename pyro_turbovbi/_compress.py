"""From a fit to a compressed network: what `Fit.compress` does."""

from __future__ import annotations

import functools

from torch import Tensor

from pyro_turbovbi._random import seeded
from pyro_turbovbi.batches import Data, TransformedTensors, as_batches, as_tensors
from pyro_turbovbi.checks import check_data, check_runs
from pyro_turbovbi.compression import Compressed, FineTune, compress, fine_tune, reorder
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.result import Fit

#: Data points on which a compressed net is held against the masked one.
VERIFIED_ROWS = 2048


def compress_fit(
    fit: Fit,
    data: Data | None,
    *,
    keep: float | None,
    reorder_units: bool,
    tuning: FineTune | bool,
    validation: Data | None,
) -> Compressed:
    """See `Fit.compress`."""
    settings, scales = _settings(tuning, validation), _finite_scales(fit)
    if settings is not None:
        settings.check(fit.bnn.likelihood, scales)
    with seeded(0 if settings is None else settings.seed):  # a loader may draw an order
        x, y = _points(data)
        if settings is not None:
            _check_points(fit, x, y, validation)
    device = next(fit.bnn.net.parameters()).device
    net, masks = fit.mean_net(), fit.masks(keep)
    inputs = x[:VERIFIED_ROWS].to(device)
    check_runs(fit.bnn, inputs)
    if reorder_units:
        ordered = reorder(net, masks, inputs)
        net, masks, scales = ordered.net, ordered.masks, ordered.arrange(scales)
    likelihood = fit.bnn.likelihood
    small = compress(net, masks, inputs, scales=scales, likelihood=likelihood)
    if settings is None:
        return small
    return fine_tune(
        small,
        data if isinstance(data, TransformedTensors) else (x, y),
        likelihood,
        settings=settings,
        validation=validation,
        soft_targets=_soft_targets(fit, x, settings) if settings.distil else None,
    )


def _settings(tuning: FineTune | bool, validation: Data | None) -> FineTune | None:
    if not isinstance(tuning, FineTune | bool):
        raise InvalidArgumentError(
            "fine_tune is of the wrong kind",
            given=tuning,
            accepted="True, or compression.FineTune(...)",
        )
    if tuning is False and validation is not None:
        raise InvalidArgumentError(
            "validation data are for fine-tuning, which is not asked for",
            accepted="fine_tune=True beside them",
        )
    return FineTune() if tuning is True else tuning or None


def _points(data: Data | None) -> tuple[Tensor, Tensor | None]:
    """Inputs and, where there are any, targets."""
    if data is None:
        raise InvalidArgumentError(
            "compress needs inputs on which the smaller net is verified",
            accepted="the training or test data, or a tensor of inputs",
        )
    x, y = (data, None) if isinstance(data, Tensor) else as_tensors(data)
    if not isinstance(x, Tensor):
        raise InvalidArgumentError("compress needs a net with one input", given=list(x))
    return x, y


def _check_points(fit: Fit, x: Tensor, y: Tensor | None, validation: Data | None) -> None:
    """Hold what fine-tuning reads against the net before anything is cut."""
    if y is None:
        raise InvalidArgumentError(
            "fine_tune needs targets", given="a tensor of inputs", accepted="the training data"
        )
    device = next(fit.bnn.net.parameters()).device
    for points in ((x, y), validation):
        if points is not None:
            check_data(fit.bnn, as_batches(points, batch_size=1024, shuffle=False), device)


def _soft_targets(fit: Fit, x: Tensor, settings: FineTune) -> Tensor:
    """Class probabilities that the uncut posterior predicts, shape [points, ..., classes]."""
    with seeded(settings.seed):
        # One draw at a time: all outputs of all draws may be too many to hold.
        draws = (fit.predict(x, 1).mean for _ in range(settings.num_samples))
        return functools.reduce(Tensor.add_, draws) / settings.num_samples


def _finite_scales(fit: Fit) -> dict[str, Tensor]:
    """Standard deviations of the sites that have them: a law of heavy tails may have none."""
    scales = fit.posterior.scale() or {}
    return {
        name: scales[name]
        for name in fit.bnn.sites
        if name in scales and bool(scales[name].isfinite().all())
    }
