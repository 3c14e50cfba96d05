"""`transformers serve` with FineViT-VL's classes registered first: it looks architectures up by name."""

from importlib.util import find_spec

import click

import finevit  # noqa: F401  (registers the classes with Auto* and by name)
from finevit_vl.answering import check_model_folder


def serve(arguments: list[str]) -> None:
    """Run transformers' own command `serve`, an OpenAI-compatible server, until it is interrupted.

    FineViT-VL needs nothing more: answers are those of `finevit ask`, token for token (a test compares them). What to
    know about transformers 5.23: requests are answered one after the other, whatever comes in at once; clients must
    call the model by the very name it was served under; special tokens are left out, so boxes come as
    `(x1,y1),(x2,y2)` without their marks, which `parse_boxes` reads; decoding is greedy unless the model's
    generation_config.json says otherwise, even if a request sets a temperature.

    Args:
        arguments: What follows `transformers serve`; `["--help"]` lists its options.

    Raises:
        ValueError: The packages of the extra `serve` are missing, the model folder is none, or an option is unknown.
    """
    missing = [name for name in ("fastapi", "uvicorn", "openai") if find_spec(name) is None]
    if missing and "--help" not in arguments:
        raise ValueError(f"Serving needs {', '.join(missing)}; pip install 'finevit[serve]'.")
    if arguments and not arguments[0].startswith("-"):
        check_model_folder(arguments[0])
    from transformers.cli.transformers import app

    try:
        app(["serve", *arguments], prog_name="finevit", standalone_mode=False)
    except click.Abort:  # Ctrl-C, after uvicorn has shut down
        return
    except click.UsageError as error:
        # The message goes on with every option there is.
        raise ValueError(f"{error.message.split('.')[0]}; see `finevit serve --help`") from error
