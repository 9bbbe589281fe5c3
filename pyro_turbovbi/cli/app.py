"""The options of every command. What a command does is imported when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated

import typer

from pyro_turbovbi import __version__
from pyro_turbovbi.cli.commands import Commands, show
from pyro_turbovbi.cli.interruption import INTERRUPTED

app = typer.Typer(
    name="ptv",
    cls=Commands,
    help="Structured sparse Bayesian neural networks: fit, compare, compress.",
    epilog="Exit codes: 0 fine, 1 an error, 2 wrong arguments, 130 interrupted.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Say which data sets are known and where they are, or fetch one.")
app.add_typer(data_app, name="data")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Directory = Annotated[Path, typer.Argument(metavar="RUN", help="A directory from `ptv fit`.")]
DataName = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="A name that `ptv data list` shows, a .csv, .parquet or .npz file, a folder of "
        "images, or package.module:function.",
    ),
]
Target = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="The column of a table to predict.")
]
Epochs = Annotated[int | None, typer.Option(min=1, metavar="N", help="Passes over the data.")]


def _version(asked: bool) -> bool:
    if asked:
        print(f"pyro_turbovbi {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", help="After an error, show where it arose.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Structured sparse Bayesian neural networks: fit, compare, compress."""


@app.command()
def demo(
    data: Annotated[str, typer.Option(help="digits or mnist.")] = "digits",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where pictures go.")] = Path(
        "demo_output"
    ),
    epochs: Epochs = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")] = 0,
) -> None:
    """Train, compress and compare on images of digits."""
    from pyro_turbovbi.cli.demo import run_demo

    run_demo(data, out, epochs=epochs, seed=seed)


@app.command()
def fit(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe (.yaml, .toml), a model file (.py with a function `build`), or a run.",
        ),
    ],
    data: DataName = None,
    target: Target = None,
    prior: Annotated[
        str | None,
        typer.Option(
            metavar="PRIOR", help="A prior's name, '{kind: NAME, ...}', or a file with one."
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="ENGINE", help="Turbo, SVI, MAP, NUTS, or '{kind: ...}'.")
    ] = None,
    epochs: Epochs = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of start values and training.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any value of the recipe, such as engine.lr=0.004."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of the run (default: runs/NAME).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory of its checkpoints (default: in the run)."),
    ] = None,
    checkpoint_every: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Epochs between two checkpoints; 0: none."),
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Train what a recipe declares; runs the code that it names."""
    from pyro_turbovbi.cli.declaration import declare
    from pyro_turbovbi.cli.fit import fit_recipe
    from pyro_turbovbi.distributed import is_first

    recipe = declare(
        source,
        data=data,
        target=target,
        prior=prior,
        engine=engine,
        epochs=epochs,
        seed=seed,
        settings=settings or (),
    )
    result = fit_recipe(
        recipe,
        source,
        out,
        resume=resume,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )
    if result is not None and is_first():
        show(result, as_json=as_json)
    if result is None or not result.finished:
        raise typer.Exit(INTERRUPTED)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Directories from `ptv fit`.")
    ],
    as_json: AsJson = False,
) -> None:
    """Compare runs on their test data; runs the code that their recipes name."""
    from pyro_turbovbi.cli.compare import compare_runs

    comparison = compare_runs(runs)
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    print(comparison.to_json() if as_json else comparison.table().to_text(width))


@app.command()
def compress(
    run: Directory,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file (default: net.ptv in the run).")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="X",
            help="Round weights: the validation NLL may grow by X nats a data point.",
        ),
    ] = None,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Save standard deviations too.")
    ] = False,
    reorder: Annotated[
        bool, typer.Option("--reorder", help="Put similar units next to each other first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Save the smaller network of a run; runs the code that its recipe names."""
    from pyro_turbovbi.cli.compress import compress_run

    result = compress_run(run, out, tolerance=tolerance, uncertainty=uncertainty, reorder=reorder)
    show(result, as_json=as_json)


@app.command()
def predict(
    run: Directory,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="New rows: a .csv or .parquet file with the columns of the inputs, a .npz file "
            "with x, an image, or a folder of images.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write all predictions to this file.")
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Posterior draws to average over; 0: the posterior mean alone."
        ),
    ] = 32,
    as_json: AsJson = False,
) -> None:
    """Predict new rows, in the units of the data; runs the code that the run's recipe names."""
    from pyro_turbovbi.cli.predict import predict_rows

    show(predict_rows(run, file, out, draws=draws), as_json=as_json)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="A directory from `ptv fit`; others to compare."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="The page (default: report.html in the run)."
        ),
    ] = None,
    show_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a page about a run, in words and pictures; runs the code that its recipe names."""
    from pyro_turbovbi.cli.report import report_runs

    show(report_runs(runs, out, show=show_page), as_json=as_json)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file from `ptv compress`.")],
    as_json: AsJson = False,
) -> None:
    """Say what a saved network holds and what it costs; runs no code."""
    from pyro_turbovbi.cli.inspect import inspect_file

    show(inspect_file(file), as_json=as_json)


@app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where to write; never overwrites.")
    ] = Path("."),
    data: DataName = None,
    target: Target = None,
    classes: Annotated[
        bool, typer.Option("--classes", help="The numbers in that column are those of classes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented recipe and a model file that fit the data (default: digits)."""
    from pyro_turbovbi.cli.init import init as write_files

    done = write_files(directory, data=data or "digits", target=target, classes=classes)
    show(done, as_json=as_json)


@data_app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Say which data sets are known, and where they were found."""
    from pyro_turbovbi.cli.data import list_data

    show(list_data(), as_json=as_json)


@data_app.command()
def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One that `ptv data list` shows.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to put it (default: where it is looked for)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a data set, unless it is here, and say where it is."""
    from pyro_turbovbi.cli.data import get_data

    show(get_data(name, to, progress=sys.stderr.isatty()), as_json=as_json)


__all__ = ["app"]
