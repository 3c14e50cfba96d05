"""`finevit completion`: what a shell needs to complete commands, options, choices and files."""

import argparse
from pathlib import Path
from typing import Any

SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


def add_completion(commands: argparse._SubParsersAction, parser: argparse.ArgumentParser) -> None:
    """Adds the command.

    Args:
        parser: that of `finevit`, whose commands are completed.
    """
    command = commands.add_parser("completion", help='for a shell: eval "$(finevit completion bash)"')
    command.add_argument("shell", choices=SHELLS, help="write its script to standard output")
    command.set_defaults(run=lambda arguments: print(completion(parser, arguments.shell)))


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script, by shtab."""
    import shtab

    _mark_files(parser, shtab.FILE)
    return shtab.complete(parser, shell)


def _mark_files(parser: argparse.ArgumentParser, mark: Any) -> None:
    for action in parser._actions:
        if action.type is Path:
            action.complete = mark  # ty: ignore[missing-attribute]
        for command in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            _mark_files(command, mark)
