"""What the options of `ptv fit` declare: a recipe, from a file or from a model and options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyro_turbovbi import data as loaders
from pyro_turbovbi.cli.runs import Run
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.recipe import Recipe
from pyro_turbovbi.specs.calls import rebase
from pyro_turbovbi.specs.changes import changed, parse_change
from pyro_turbovbi.specs.documents import SUFFIXES, Document, KeyPath, parse_yaml, read

LOADERS = {".csv": "csv_file", ".npz": "npz_file", ".parquet": "parquet_file"}
"""Loaders of files by their suffix."""
_MODEL = ".py"


def declare(
    source: Path,
    *,
    data: str | None = None,
    target: str | None = None,
    prior: str | None = None,
    engine: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    settings: Sequence[str] = (),
) -> Recipe:
    """Puts a recipe together. Nothing that it names is imported or run.

    Args:
        source: A recipe, a model file with a function `build`, or a run.
        data: Name of a data set, a file (.csv, .parquet, .npz), a folder of images, or the address
            of a function that gives data.
        target: Column to predict, of a table.
        prior: Name of a prior, `{kind: ..., ...}`, or a file that describes one.
        engine: Name of an engine, or `{kind: ..., ...}`.
        epochs: Passes over the data.
        seed: Seed of start and training.
        settings: Further values, each `key=value`.

    Raises:
        SpecError: If something is wrong with the recipe or a value.
        InvalidArgumentError: If the source is of an unknown kind, or there are no data.
    """
    changes: dict[KeyPath, Any] = {}
    if data is not None:
        changes["data",] = data_spec(data)
    if prior is not None:
        changes["prior",] = _prior_spec(prior)
    if engine is not None:
        changes["engine",] = _choice(engine, "--engine")
    given = {("data", "target"): target, ("epochs",): epochs, ("seed",): seed}
    changes |= {path: value for path, value in given.items() if value is not None}
    changes |= dict(map(parse_change, settings))
    if source.suffix == _MODEL:
        return _of_model(source, changes)
    if source.is_dir():
        source = Run(source).recipe_file
    elif source.suffix.lower() not in SUFFIXES:
        raise InvalidArgumentError(
            "this is neither a recipe nor a model file",
            given=str(source),
            accepted=f"a file ending in {', '.join((*SUFFIXES, _MODEL))}, or a run",
        )
    return Recipe.load(source, changes)


def data_spec(text: str) -> dict[str, Any]:
    """What `--data` stands for in a recipe.

    Raises:
        InvalidArgumentError: If it is a file of a kind that is not read.
    """
    path = os.path.abspath(text)
    if loader := LOADERS.get(Path(text).suffix.lower()):
        return {"kind": loader, "path": path}
    if ":" in text:
        spec: dict[str, Any] = rebase({"call": text}, os.path.abspath)
        return spec
    if text not in loaders.__all__ and Path(text).is_file():
        raise InvalidArgumentError(
            "files of this kind are not read as data",
            given=text,
            accepted=f"a file ending in {', '.join(LOADERS)}, or a folder of images",
        )
    if text not in loaders.__all__ and (os.sep in text or Path(text).is_dir()):
        return {"kind": "image_folder", "path": path}
    return {"kind": text}


def _of_model(source: Path, changes: dict[KeyPath, Any]) -> Recipe:
    spec = changed(Document({"net": {"call": f"{source}:build"}}), changes).data
    if "data" not in spec:
        raise InvalidArgumentError(
            "a model file comes without data",
            given=str(source),
            accepted="--data with a name that `ptv data list` shows, a file or folder of your own, "
            "or package.module:function",
        )
    return Recipe.from_spec(spec)


def _prior_spec(text: str) -> Any:
    is_file = Path(text).suffix.lower() in SUFFIXES
    return read(text).data if is_file else _choice(text, "--prior")


def _choice(text: str, option: str) -> Any:
    """A kind alone, or a mapping with its settings."""
    is_mapping = text.lstrip().startswith("{")
    return parse_yaml(text, option).data if is_mapping else {"kind": text}


__all__ = ["LOADERS", "data_spec", "declare"]
