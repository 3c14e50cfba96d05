"""`finevit data look`: what a source of training data holds, before a run is started on it."""

import argparse
from pathlib import Path

from finevit_cli.values import positive

LOOK_ROWS = 1000


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
    look.set_defaults(run=_look)


def _look(arguments: argparse.Namespace) -> None:
    from finecap.sources.door import open_source
    from finecap.sources.look import look_at, report, write_contact_sheet

    source = open_source(arguments.source, arguments.split)
    seen = look_at(source, arguments.rows)
    print(report(source, seen))
    if arguments.out:
        print(write_contact_sheet(source, seen, arguments.out))
