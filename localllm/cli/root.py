"""The root of the command line: knows the commands by name and imports the one asked for."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from localllm import __version__
from localllm.cli.app import COMMANDS, HELP
from localllm.errors import UsageError


class Commands(TyperGroup):
    """The subcommands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"localllm.cli.{cmd_name}").command
        application = typer.Typer(rich_markup_mode=None, add_completion=False)
        application.command(cmd_name, help=(command.__doc__ or "").strip())(command)
        return typer.main.get_command(application)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The same help as without typer."""
        formatter.write(HELP)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments name, or a suggestion."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {close[0]}?" if close else "`localllm --help` lists the commands"
            raise UsageError(f"no command {args[0]!r}", hint)
        return super().resolve_command(ctx, args)


root = typer.Typer(
    cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=True
)


@root.callback()
def options(version: bool = typer.Option(False, "--version", help="Show the version.")) -> None:
    """Options that stand before a command."""
    if version:
        typer.echo(f"localllm {__version__}")
        raise typer.Exit


def command_line() -> Any:
    """The root command."""
    return typer.main.get_command(root)
