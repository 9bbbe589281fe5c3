"""`ptv init`: a commented recipe and a model file to start from."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_turbovbi.batches import as_tensors
from pyro_turbovbi.cli.declaration import data_spec
from pyro_turbovbi.data import Splits
from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, StorageError
from pyro_turbovbi.recipe import Recipe

RECIPE = """\
# A whole training in one file. Try it:      ptv fit {recipe}
# Change a value without an editor:          ptv fit {recipe} --set engine.lr=0.002

net: # a function that gives a torch.nn.Module; model.py is beside this file, and yours to change
  call: model.py:build
  arguments: {{inputs: {inputs}, outputs: {outputs}}}

data: {data}

likelihood: {likelihood} # what the outputs mean: Categorical, Bernoulli, Gaussian, Poisson, ...

prior: # three layers: which weights there are (support), how large they are, the weights themselves
  kind: ThreeLayer
  support:
{support}

engine:
  kind: Turbo # SVI and MAP, to compare with, need a prior without discrete supports: --prior Normal
  # lr: 0.002
  # compression: 1.0 # lower, such as 0.1: keep more weights; higher: a smaller network

epochs: {epochs}
batch_size: {batch_size}
seed: 0
"""
CHAIN = """\
    kind: Chain # kept weights come in runs along a row; or Grid, Independent, Gated, Blocks
    density: 0.1 # share of the weights that is expected to be needed
    mean_run: 5 # mean length of a run; belongs to Chain and Grid only"""
"""Support of a net whose inputs have an order, such as pixels."""
INDEPENDENT = """\
    kind: Independent # columns have no order; where inputs have one: Chain, Grid, Gated, Blocks
    density: 0.1 # share of the weights that is expected to be needed
    # mean_run: 5 # mean length of a run of kept weights; belongs to Chain and Grid only"""
"""Support of a net whose inputs are columns of a table."""
MODEL = '''\
"""The network: plain PyTorch, nothing of it is special."""

from torch import nn


def build(inputs: int, outputs: int, hidden: int = 100) -> nn.Module:
    """One hidden layer.

    Args:
        inputs: Numbers a data point has (pixels and channels of an image multiplied).
        outputs: Classes, or 1 for a number.
        hidden: Units between them.
    """
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )
'''
EPOCHS = 60
_STEPS = 40
"""Steps an epoch should have, as far as batches of at least 8 allow."""
_WITHOUT_ORDER = ("csv_file", "parquet_file", "npz_file", "diabetes", "uci")
_TABLES = ("csv_file", "parquet_file")
_MANY_CLASSES = 1000
"""Classes that there may be however few data points there are."""
_FEW_VALUES = 20
"""Different whole numbers up to which a target may well be a class."""


@dataclass(frozen=True)
class InitResult:
    """Files to start from.

    Attributes:
        recipe: The recipe.
        model: The model file.
        hint: What to look at before training; None if nothing is remarkable.
    """

    recipe: Path
    model: Path
    hint: str | None = None

    def to_dict(self) -> Mapping[str, Any]:
        """All fields."""
        return vars(self)

    def __str__(self) -> str:
        hint = f"hint: {self.hint}\n" if self.hint else ""
        recipe = shlex.quote(str(self.recipe))
        return f"wrote {self.recipe}\nwrote {self.model}\n{hint}next: ptv fit {recipe}"


def init(
    directory: Path, *, data: str = "digits", target: str | None = None, classes: bool = False
) -> InitResult:
    """Writes a recipe and a model file whose sizes fit the data. Never overwrites.

    Args:
        directory: Where to write; made if it is missing.
        data: See `declaration.declare`.
        target: Column to predict, of a table.
        classes: Whether the numbers in that column are those of classes.

    Raises:
        InvalidArgumentError: If there is such a file already, or `classes` is for no table.
        StorageError: If one cannot be written.
        TurboVBIError: If the data cannot be loaded.
    """
    files = InitResult(directory / "recipe.yaml", directory / "model.py")
    for file in (files.recipe, files.model):
        if file.exists():
            raise InvalidArgumentError(
                "there is such a file already", given=str(file), accepted="another directory"
            )
    spec = data_spec(data) | ({} if target is None else {"target": target})
    if classes and spec["kind"] not in _TABLES:
        raise InvalidArgumentError(
            "--classes is for the target column of a table",
            given=data,
            accepted="a .csv or .parquet file; in a .npz file, whole numbers y are classes",
        )
    spec |= {"classes": True} if classes else {}
    text, hint = _recipe(files.recipe, spec)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError.of("the directory cannot be made", directory, error) from error
    _write_new({files.model: MODEL, files.recipe: text})
    return replace(files, hint=hint)


def _recipe(file: Path, spec: Mapping[str, Any]) -> tuple[str, str | None]:
    """The recipe's text, sizes taken from the data, and a hint."""
    declared = Recipe(net={"call": "torch.nn:Identity"}, data=spec)
    loaded = declared.build_data()
    train = loaded.train if isinstance(loaded, Splits) else loaded
    x, y = as_tensors(train)
    if not isinstance(x, Tensor):
        raise InvalidArgumentError(
            "data with several inputs", given=list(x), accepted="one input; or a recipe by hand"
        )
    classes = not y.is_floating_point()
    ordered = x.dim() > 2 or spec.get("kind") not in _WITHOUT_ORDER
    text = RECIPE.format(
        recipe=shlex.quote(str(file)),
        inputs=x[0].numel(),
        outputs=_num_classes(loaded, y) if classes else y[0].numel(),
        data=json.dumps(_relative(spec, file), ensure_ascii=False),  # surrogates are no YAML
        likelihood="{kind: Categorical}" if classes else "{kind: Gaussian}",
        epochs=EPOCHS,
        batch_size=max(8, min(128, len(y) // _STEPS)),
        support=CHAIN if ordered else INDEPENDENT,
    )
    return text, _hint(loaded) if spec.get("kind") in _TABLES else None


def _hint(loaded: Splits) -> str | None:
    """Says it if a target that is taken for an amount looks like a class."""
    y = torch.cat([part.y for part in loaded])
    if not y.is_floating_point():
        return None
    values = y.double() * loaded.target_scale + loaded.target_mean
    different = values.round().unique()
    if len(different) > _FEW_VALUES or not torch.allclose(values, values.round(), atol=1e-3):
        return None
    return (
        f"{loaded.target!r} has {len(different)} different values, all of them whole numbers.\n"
        "      If they are classes, start anew elsewhere with --classes"
    )


def _num_classes(loaded: Any, y: Tensor) -> int:
    """The largest label of all parts, and one.

    Raises:
        InvalidDataError: If whole numbers are no labels that a net can have an output for each of.
    """
    parts = [part.y for part in loaded if len(part.y)] if isinstance(loaded, Splits) else [y]
    labels = torch.cat([part.long() for part in parts])
    least, largest = int(labels.min()), int(labels.max())
    if labels.dim() > 1 or least < 0 or largest >= max(_MANY_CLASSES, len(labels)):
        raise InvalidDataError(
            "whole numbers count as classes, and these are no labels",
            given=f"{least} .. {largest}, shape {tuple(labels.shape)}",
            accepted="one of 0, 1, ..., classes - 1 a point; amounts as floating-point numbers",
        )
    return largest + 1


def _relative(spec: Mapping[str, Any], recipe: Path) -> dict[str, Any]:
    """The data as the recipe names them: files relative to it."""
    folder = os.path.abspath(recipe.parent)
    place = {"path": os.path.relpath(spec["path"], folder)} if "path" in spec else {}
    return {**spec, **place}


def _write_new(texts: Mapping[Path, str]) -> None:
    """Writes files that are not there yet, all or none of them."""
    written = []
    try:
        for file, text in texts.items():
            with file.open("x", encoding="utf-8") as stream:
                written.append(file)
                stream.write(text)
    except BaseException as error:
        for done in written:
            done.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StorageError.of("the file cannot be written", file, error) from error
        raise


__all__ = ["InitResult", "init"]
