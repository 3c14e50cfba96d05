"""The parser of `finevit` and of each of its commands."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from finecap.nearest import did_you_mean


class CommandParser(argparse.ArgumentParser):
    """Refuses what a command does not know with the usage of that very command, and names the flag that was meant.

    Args:
        takes_all: whatever follows the command is left in `rest`, unread.
    """

    def __init__(self, *args: Any, takes_all: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._takes_all = takes_all
        self._words: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse does, but here, where a command is parsed, nothing may be left over."""
        self._words = list(args or ())
        if self._takes_all:
            return argparse.Namespace(run=self.get_default("run"), rest=self._words), []
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Prints usage and message, and exits with 2."""
        super().error(message + did_you_mean(self._misspelt(self._words), self._option_string_actions))

    def _misspelt(self, words: Sequence[str]) -> list[str]:
        # Required flags are missed before unknown ones are found.
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        return [flag for flag in flags if not any(known.startswith(flag) for known in self._option_string_actions)]
