"""The code blocks of README and docs."""

import re
import shlex
from pathlib import Path

from tests.support.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "finecap" / "sample" / "README.md"]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The contents of the page's fenced blocks of one language."""
    return [text for found, text in _BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(page: Path) -> list[list[str]]:
    """The shell commands of a page as lists of words; lines that a backslash continues are one, comments are left out,
    and what a here-document feeds to a program is no command.
    """
    found = []
    for block in blocks(page, "bash"):
        text = re.sub(r"<<'(\w+)'\n.*?^\1$", "", block.replace("\\\n", " "), flags=re.MULTILINE | re.DOTALL)
        found += [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]
    return found
