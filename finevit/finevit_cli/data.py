"""`finevit data look`: what a source of training data holds, before a run is started on it."""

import argparse
import json
from pathlib import Path
from typing import Any

from finevit_cli.values import positive

LOOK_ROWS = 1000
MAX_LENGTH = 4096


def add_data(commands: argparse._SubParsersAction) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("data", help="data that training can take")
    look = command.add_subparsers(dest="data_command", required=True).add_parser(
        "look", help="count rows, sizes and rejects of a source, and draw a contact sheet"
    )
    look.add_argument(
        "source", help="path, glob or URL (hf://, s3://, https://) of data, datasets:NAME, or the id of a dataset"
    )
    look.add_argument("--split", default="train")
    look.add_argument("--rows", type=positive, default=LOOK_ROWS, help="rows to read, from parts all over the source")
    look.add_argument("--out", type=Path, help="folder for the contact sheet; none is drawn by default")
    look.add_argument("--model", help="model folder: say tokens, packed rows and first turns as training takes them")
    _add_training(look)
    look.set_defaults(run=_look)


def _add_training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--max-length", type=positive, help=f"tokens of a row; {MAX_LENGTH} by default")
    command.add_argument("--mixture", help="turns per task (JSON), or the name of a mixture: paper")


def _conversations(arguments: argparse.Namespace, **more: Any) -> Any:
    """The conversations that a training from the model makes."""
    from transformers import AutoProcessor

    from finecap.tasks.mixture import DEFAULT_MIXTURE, named_mixture
    from finevit_training.examples.conversation import Conversations
    from finevit_vl.model_folder import check_model_folder

    check_model_folder(arguments.model)
    try:
        processor = AutoProcessor.from_pretrained(arguments.model)
    except (OSError, ValueError) as error:
        raise ValueError(f"--model {arguments.model} holds no processor of a FineViT-VL: {error}") from error
    mixture = dict(DEFAULT_MIXTURE)
    if arguments.mixture:
        mixture = named_mixture(_json_or_name(arguments.mixture))
    return Conversations(processor, arguments.max_length or MAX_LENGTH, mixture, **more)


def _json_or_name(text: str) -> Any:
    if not text.startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--mixture must be JSON or a name, got {text!r}: {error}") from error


def _look(arguments: argparse.Namespace) -> None:
    from finecap.sources.door import open_source
    from finecap.sources.look import look_at, report, write_contact_sheet

    idle = [name for name in ("max_length", "mixture") if getattr(arguments, name)]
    if idle and not arguments.model:
        raise ValueError(f"--{idle[0].replace('_', '-')} would have no effect without --model")
    conversations = _conversations(arguments) if arguments.model else None
    source = open_source(arguments.source, arguments.split)
    seen = look_at(source, arguments.rows)
    print(report(source, seen))
    if conversations:
        from finevit_training.examples.look import look_at_training, training_report

        print(training_report(look_at_training([row for _, _, row in seen.usable], conversations), conversations))
    if arguments.out:
        print(write_contact_sheet(source, seen, arguments.out))
