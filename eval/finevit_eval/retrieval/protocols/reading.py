"""What the readers of published test sets share: their files, and their ways with text."""

import json
import re
from pathlib import Path
from typing import Any

Captioned = list[tuple[Path, list[str]]]
"""Pictures, each once, and the texts of each."""

# Where LoTLIP's and FLAIR's loaders cut a caption; an ellipsis or "1.5" is cut as well.
_CUTS = re.compile(r"\n|</s>|[.]")


def cut_sentences(text: str) -> list[str]:
    """The parts of a caption as LoTLIP and FLAIR cut it, without their dots."""
    return [part.strip() for part in _CUTS.split(text) if part.strip()]


def rejoined(text: str) -> str:
    """The parts of a caption joined by ". ", as LoTLIP and FLAIR give it to a tokenizer."""
    return ". ".join(cut_sentences(text))


def needed(path: Path, layout: str) -> Path:
    """The path of a file or folder that the layout has.

    Raises:
        ValueError: it is not there.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing; --data must be the folder of {layout}.")
    return path


def read_json(path: Path, layout: str) -> Any:
    """What a JSON file of the layout holds.

    Raises:
        ValueError: it is missing or is no JSON.
    """
    try:
        return json.loads(needed(path, layout).read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON ({error}); --data must be the folder of {layout}.") from error


def read_json_lines(path: Path, layout: str) -> list[Any]:
    """What a file of the layout holds, a JSON value a line.

    Raises:
        ValueError: it is missing or a line is no JSON.
    """
    lines = needed(path, layout).read_text("utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has a line that is no JSON ({error}); expected {layout}.") from error
