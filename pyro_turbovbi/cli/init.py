"""`ptv init`: a commented recipe and a model file to start from."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_turbovbi.batches import as_tensors
from pyro_turbovbi.cli.declaration import data_spec
from pyro_turbovbi.data import Splits
from pyro_turbovbi.errors import InvalidArgumentError, StorageError
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
    kind: Chain # kept weights come in runs along a row; or Independent, Grid, Gated, Blocks
    density: 0.1 # share of the weights that is expected to be needed
    mean_run: 5 # mean length of a run

engine:
  kind: Turbo # the method of this package; SVI and MAP to compare with
  # lr: 0.002

epochs: {epochs}
batch_size: {batch_size}
seed: 0
"""
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


@dataclass(frozen=True)
class InitResult:
    """Files to start from.

    Attributes:
        recipe: The recipe.
        model: The model file.
    """

    recipe: Path
    model: Path

    def to_dict(self) -> Mapping[str, Any]:
        """Both files."""
        return {"recipe": self.recipe, "model": self.model}

    def __str__(self) -> str:
        recipe = shlex.quote(str(self.recipe))
        return f"wrote {self.recipe}\nwrote {self.model}\nnext: ptv fit {recipe}"


def init(directory: Path, *, data: str = "digits", target: str | None = None) -> InitResult:
    """Writes a recipe and a model file whose sizes fit the data. Never overwrites.

    Args:
        directory: Where to write; made if it is missing.
        data: See `declaration.declare`.
        target: Column to predict, of a table.

    Raises:
        InvalidArgumentError: If there is such a file already.
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
    text = _recipe(files.recipe, spec)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError.of("the directory cannot be made", directory, error) from error
    _write_new({files.model: MODEL, files.recipe: text})
    return files


def _recipe(file: Path, spec: Mapping[str, Any]) -> str:
    """The recipe's text, sizes taken from the data."""
    declared = Recipe(net={"call": "torch.nn:Identity"}, data=spec)
    loaded = declared.build_data()
    train = loaded.train if isinstance(loaded, Splits) else loaded
    x, y = as_tensors(train)
    if not isinstance(x, Tensor):
        raise InvalidArgumentError(
            "data with several inputs", given=list(x), accepted="one input; or a recipe by hand"
        )
    classes = not y.is_floating_point()
    return RECIPE.format(
        recipe=shlex.quote(str(file)),
        inputs=x[0].numel(),
        outputs=int(_largest(loaded, y)) + 1 if classes else y[0].numel(),
        data=json.dumps(_relative(spec, file)),
        likelihood="{kind: Categorical}" if classes else "{kind: Gaussian}",
        epochs=EPOCHS,
        batch_size=max(8, min(128, len(y) // _STEPS)),
    )


def _largest(loaded: Any, y: Tensor) -> Tensor:
    """The largest label of all parts."""
    parts = [part.y for part in loaded if len(part.y)] if isinstance(loaded, Splits) else [y]
    return max(part.max() for part in parts)


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
