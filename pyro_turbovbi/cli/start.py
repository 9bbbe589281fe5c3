"""How the process starts: Ctrl-C has an answer before the commands are imported."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_turbovbi.cli.interruption import tell


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments after the program's name; None takes those of the process.

    Returns:
        The exit code; see `commands.FINE` and the others.
    """
    try:
        from typer.main import get_command

        from pyro_turbovbi.cli.app import app

        get_command(app).main(args=arguments, prog_name="ptv")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt as interrupt:  # before there are commands; they end by themselves
        return tell(interrupt)
    return 0


__all__ = ["main"]
