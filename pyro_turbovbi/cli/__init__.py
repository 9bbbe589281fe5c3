"""The command line: `python -m pyro_turbovbi demo`, `run` and `inspect`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyro_turbovbi.cli.demo import RECIPES, run_demo
from pyro_turbovbi.cli.inspect import inspect_file
from pyro_turbovbi.cli.run import run_recipe
from pyro_turbovbi.errors import TurboVBIError

EXIT_FAILURE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments after the program's name; None takes those of the process.

    Returns:
        0, or 2 after an error, which is printed in one line on the error stream.

    Raises:
        SystemExit: After `--help`, and for arguments that cannot be parsed.
    """
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except TurboVBIError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_FAILURE
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pyro_turbovbi", description="Structured sparse Bayesian neural networks."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="train, compress and compare on images of digits",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument(
        "--data", choices=sorted(RECIPES), default="digits", help="the data set to train on"
    )
    demo.add_argument("--out", default="demo_output", metavar="DIR", help="where pictures go")
    demo.add_argument(
        "--epochs", type=int, metavar="N", help="passes over the data (None: as the data set needs)"
    )
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything random")
    demo.set_defaults(command=_demo)
    run = commands.add_parser("run", help="train what a recipe declares; runs the code it names")
    run.add_argument("recipe", type=Path, metavar="RECIPE", help="a YAML or TOML file")
    run.add_argument(
        "--epochs", type=int, metavar="N", help="passes over the data (default: the recipe's)"
    )
    run.add_argument("--out", type=Path, metavar="FILE", help="where the compressed net goes")
    run.set_defaults(command=_run)
    inspect = commands.add_parser("inspect", help="say what a saved network holds; runs no code")
    inspect.add_argument("file", type=Path, metavar="FILE", help="a file from Compressed.save")
    inspect.set_defaults(command=_inspect)
    return parser


def _demo(options: argparse.Namespace) -> None:
    run_demo(options.data, Path(options.out), epochs=options.epochs, seed=options.seed)


def _run(options: argparse.Namespace) -> None:
    run_recipe(options.recipe, epochs=options.epochs, out=options.out)


def _inspect(options: argparse.Namespace) -> None:
    print(inspect_file(options.file))
