"""`finevit data`: what a source of training data holds, and its plan, before a run is started on it."""

import argparse
import json
from pathlib import Path
from typing import Any

from finevit_cli.values import positive

LOOK_ROWS = 1000
MAX_LENGTH = 4096
SEED, STEP = 42, 8
# The same words as behind `--data` of a training, so that one is tried with those of the other.
SOURCES = (
    "path, glob or URL (hf://, s3://, https://) of data, datasets:NAME, or the id of a dataset; or a mapping as in a "
    "recipe's data (JSON): path, and weight, split, columns or image_folder"
)


def add_data(commands: argparse._SubParsersAction) -> None:
    """Add the commands to the command line."""
    command = commands.add_parser("data", help="data that training can take")
    actions = command.add_subparsers(dest="data_command", required=True)
    look = actions.add_parser("look", help="count rows, sizes and rejects of sources, and draw contact sheets")
    look.add_argument("sources", nargs="+", help=SOURCES)
    look.add_argument("--split", default="train")
    look.add_argument(
        "--rows",
        type=positive,
        default=LOOK_ROWS,
        help=f"rows drawn of each source; {LOOK_ROWS:,} by default",
    )
    look.add_argument("--out", type=Path, help="folder for the contact sheets; none is drawn by default")
    look.add_argument("--model", help="model folder: say tokens, packed rows and first turns as training takes them")
    _add_training(look)
    look.set_defaults(run=_look)
    pack = actions.add_parser(
        "pack", help="write the plan of a data set once: lengths and packs, for `plan` of a recipe"
    )
    pack.add_argument("sources", nargs="+", help=SOURCES)
    pack.add_argument("--model", required=True, help="model folder, whose tokenizer and picture sizes count")
    pack.add_argument("--out", type=Path, required=True, help="folder of the plan")
    pack.add_argument("--epochs", type=positive, default=1, help="passes over the data; 1 by default")
    pack.add_argument(
        "--step",
        type=positive,
        default=STEP,
        help="rows of tokens of an optimizer step: per_device_train_batch_size x gradient_accumulation_steps x "
        f"devices. {STEP} by default, which fits every multiple of 8 below 128",
    )
    pack.add_argument("--split", default="train")
    pack.add_argument("--seed", type=int, default=SEED, help=f"of the run; {SEED} by default, as in training")
    pack.add_argument("--max-turns", type=positive, help="most turns asked about one picture")
    pack.add_argument("--isolate-turns", action="store_true", help="turns see the picture and themselves alone")
    pack.add_argument("--wordings", default="one", help="of the prompts: one, several or a YAML file; one by default")
    _add_training(pack)
    pack.set_defaults(run=_pack)


def _add_training(command: argparse.ArgumentParser) -> None:
    command.add_argument("--max-length", type=positive, help=f"tokens of a row; {MAX_LENGTH} by default")
    command.add_argument("--mixture", help="turns per task (JSON), or the name of a mixture: paper")


def _conversations(arguments: argparse.Namespace, **more: Any) -> Any:
    """The conversations that a training from the model makes."""
    from transformers import AutoProcessor

    from finecap.tasks.mixture import DEFAULT_MIXTURE, named_mixture
    from finevit_training.examples.conversation import Conversations
    from finevit_vl import FineViTVLProcessor
    from finevit_vl.model_folder import check_model_folder

    check_model_folder(arguments.model)
    try:
        processor = AutoProcessor.from_pretrained(arguments.model)
    except (OSError, ValueError) as error:
        raise ValueError(f"--model {arguments.model} holds no processor of a FineViT-VL: {error}") from error
    if not isinstance(processor, FineViTVLProcessor):
        raise ValueError(
            f"--model {arguments.model} holds a {type(processor).__name__} and no processor of a FineViT-VL: rows of "
            "tokens and plans are of stage III and the fine-tuning. For stages I and II `finevit data look` says "
            "without --model what a source holds, and their recipes take no plan"
        )
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
        raise ValueError(f"{text!r} is no JSON ({error}); give JSON or a name") from error


def _look(arguments: argparse.Namespace) -> None:
    from finecap.sources.door import open_sources
    from finecap.sources.look import look_at, report, write_contact_sheet

    idle = [name for name in ("max_length", "mixture") if getattr(arguments, name)]
    if idle and not arguments.model:
        raise ValueError(f"--{idle[0].replace('_', '-')} would have no effect without --model")
    conversations = _conversations(arguments) if arguments.model else None
    sources = open_sources([_json_or_name(source) for source in arguments.sources], arguments.split)
    for number, source in enumerate(sources, start=1):
        seen = look_at(source, arguments.rows)
        print(report(source, seen), flush=True)
        if conversations:
            from finevit_training.examples.training_look import look_at_training, training_report

            print(training_report(look_at_training([row for _, _, row in seen.usable], conversations), conversations))
        if arguments.out:
            name = "contact_sheet.png" if len(sources) == 1 else f"contact_sheet_{number}.png"
            print(write_contact_sheet(source, seen, arguments.out / name), flush=True)


def _pack(arguments: argparse.Namespace) -> None:
    from finecap.tasks.wording import load_wordings
    from finevit_training.data.reader import Reader
    from finevit_training.data.source import open_data
    from finevit_training.data.written_plan import write_plan

    a = arguments
    conversations = _conversations(
        a,
        seed=a.seed,
        max_turns=a.max_turns,
        isolate_turns=a.isolate_turns,
        wordings=load_wordings(a.wordings),
    )
    data = open_data([_json_or_name(source) for source in a.sources], a.split)
    reader = Reader(data.sources, data.parts, data.order(a.seed, a.step), conversations)
    plan = write_plan(reader, conversations.max_length, a.step, a.epochs, a.out)
    print(
        f"{a.out}: {plan.samples:,} samples in {plan.packs:,} rows of tokens, {plan.real:.1%} of their tokens are real"
    )
