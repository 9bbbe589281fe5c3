"""`python -m pyro_turbovbi run RECIPE`: train what a file declares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pyro_turbovbi.data import Splits
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.recipe import Recipe
from pyro_turbovbi.result import Fit


def run_recipe(path: Path, *, epochs: int | None = None, out: Path | None = None) -> Fit:
    """Train a recipe, print how good it is and save the compressed network.

    Args:
        path: A YAML or TOML file, see `Recipe`. The code that it names is run.
        epochs: Passes over the data; None takes the recipe's.
        out: File for the compressed network; None compresses nothing.

    Returns:
        The fit.

    Raises:
        TurboVBIError: If something is wrong with the recipe, with what it names, or with `out`.
    """
    recipe = Recipe.load(path)
    if epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=epochs)
    if out is not None and not out.absolute().parent.is_dir():
        given, accepted = str(out), "a file in a directory that exists"
        raise InvalidArgumentError("there is no such directory", given=given, accepted=accepted)
    made = recipe.build()
    fitted = recipe.fit(made)
    print(f"{path.name}: {fitted.engine_name}, {recipe.epochs} epochs, {fitted.seconds:.0f} s")
    if isinstance(made.data, Splits):
        print(f"validation: {fitted.evaluate(made.data.validation)}")
        print(f"test: {fitted.evaluate(made.data.test)}")
    if out is not None:
        small = fitted.compress(made.train)
        size = small.save(out)
        print(f"\n{small.report}\n\n{out}: {size:,} bytes, a plain file: every value exact")
    return fitted
