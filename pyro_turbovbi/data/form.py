"""What the inputs and targets of a data set are, kept for rows that come later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pyro_turbovbi.data.splits import Splits
from pyro_turbovbi.errors import InvalidDataError, ShapeError


@dataclass(frozen=True, eq=False)
class DataForm:
    """Names, units and classes of a data set, without its points.

    What is not known has its default: inputs and targets are then as they are.

    Attributes:
        shape: Shape of one input; None if it is not known.
        dtype: Type of the inputs' numbers, as torch calls it.
        columns: See `Splits.columns`.
        input_mean: See `Splits.input_mean`.
        input_scale: See `Splits.input_scale`.
        pixels: See `Splits.pixels`.
        target: See `Splits.target`.
        target_mean: See `Splits.target_mean`.
        target_scale: See `Splits.target_scale`.
        classes: See `Splits.classes`.
    """

    shape: tuple[int, ...] | None = None
    dtype: str = "float32"
    columns: tuple[str, ...] | None = None
    input_mean: Tensor | None = None
    input_scale: Tensor | None = None
    pixels: bool = False
    target: str = ""
    target_mean: float = 0.0
    target_scale: float = 1.0
    classes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, data: Any) -> DataForm:
        """The form of what a recipe's loader gave; little is known unless that is `Splits`."""
        if not isinstance(data, Splits):
            return cls()
        own = {field.name for field in fields(cls)} & {field.name for field in fields(Splits)}
        x = data.train.x
        known = {name: getattr(data, name) for name in own}
        return cls(shape=tuple(x.shape[1:]), dtype=str(x.dtype).removeprefix("torch."), **known)

    def to_dict(self) -> dict[str, Any]:
        """All attributes in plain data, as JSON takes it."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> DataForm:
        """The form that `to_dict` describes; keys that are missing have their defaults.

        Raises:
            InvalidDataError: If a value is not what `to_dict` gives.
        """
        known = {field.name: plain[field.name] for field in fields(cls) if field.name in plain}
        try:
            for name in ("input_mean", "input_scale"):
                if known.get(name) is not None:
                    known[name] = torch.tensor(known[name], dtype=torch.float64)
            for name in ("shape", "columns", "classes"):
                if known.get(name) is not None:
                    known[name] = tuple(known[name])
        except (TypeError, ValueError) as error:
            raise InvalidDataError(f"{name} of the data is damaged", given=str(error)) from error
        return cls(**known)

    def inputs(self, x: Tensor) -> Tensor:
        """Brings inputs from their own units to what the net was trained on.

        Args:
            x: Inputs `[points, ...]` as they are in a file.

        Raises:
            ShapeError: If they have another shape than those of the training.
            InvalidDataError: If a number is so large that the net's type does not hold it.
        """
        if self.shape is not None and tuple(x.shape[1:]) != self.shape:
            raise ShapeError(
                "the inputs have another shape than those that were trained on",
                given=str(tuple(x.shape)),
                accepted=f"({', '.join(map(str, ('rows', *self.shape)))})",
            )
        if self.input_mean is not None:
            x = x - self.input_mean
        if self.input_scale is not None:
            x = x / self.input_scale
        inputs = x.to(getattr(torch, self.dtype))
        finite = inputs.isfinite().flatten(1).all(1) if inputs.dim() > 1 else inputs.isfinite()
        if not bool(finite.all()):
            raise InvalidDataError(
                "the inputs hold a number that is too large",
                given=f"row {int(finite.int().argmin()) + 1}",
                accepted=f"numbers that {self.dtype} holds, in units of the training's spread",
            )
        return inputs


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


__all__ = ["DataForm"]
