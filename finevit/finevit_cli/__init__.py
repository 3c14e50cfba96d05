"""The command line `finevit <command>`. Each command imports its package only when it runs.

This folder is installed as the separate package `finevit_cli`, because importing `finevit` loads torch and all
models, which commands such as `finevit caption status` do not need.
"""

import argparse
import linecache
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from finecap.corpus.levels import DIFFICULTIES
from finecap.errors import StopRun
from finevit_cli.completing import add_completion
from finevit_cli.data import add_data
from finevit_cli.dense import add_features
from finevit_cli.measuring import add_measuring
from finevit_cli.parser import CommandParser
from finevit_cli.recipes import add_recipes
from finevit_cli.values import DEVICE, positive

OURS = ("finecap", "modeling_finevit", "finevit_vl", "finevit_training", "finevit_eval", "finevit", "finevit_cli")
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if the command succeeded; 2 with a one-line message if the user can correct the cause (a `ValueError` that
        our code raises). Anything else is a bug or a broken run and raises, which ends the process with 1.
    """
    parser, given = _parser(), sys.argv[1:] if argv is None else argv
    if not given:
        parser.print_help(sys.stderr)
        return EXIT_USER_ERROR
    arguments = parser.parse_args(given)
    try:
        return arguments.run(arguments) or 0
    except ValueError as error:
        if not _is_for_the_user(error):
            raise
        print(f"finevit: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("finevit: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _is_for_the_user(error: ValueError) -> bool:
    """Did a `raise` of ours make it? One that a library or a built-in function raises (`int("x")`) is a bug."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    if isinstance(error, StopRun) or place is None:
        return True
    package = str(place.tb_frame.f_globals.get("__name__")).partition(".")[0]
    line = linecache.getline(place.tb_frame.f_code.co_filename, place.tb_lineno)
    return package in OURS and line.lstrip().startswith("raise ")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="finevit", description="FineViT and FineViT-VL: build, train, measure, ask.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_corpus(commands)
    add_data(commands)
    _add_caption(commands)
    _add_detector(commands)
    add_recipes(commands)
    add_measuring(commands)
    add_features(commands)
    _add_ask(commands)
    _add_ground(commands)
    serve = commands.add_parser(
        "serve", help="serve a model folder (wraps `transformers serve`)", add_help=False, takes_all=True
    )
    serve.set_defaults(run=_serve)
    demo = commands.add_parser("demo", help="build a corpus, train a nano model, evaluate it, write a report")
    demo.add_argument("--out", type=Path, default=Path("outputs/demo"), help="a new folder, or a demo's; outputs/demo")
    demo.set_defaults(run=_demo)
    doctor = commands.add_parser("doctor", help="say what this machine has and can do, and what to mend")
    doctor.set_defaults(run=_doctor)
    add_completion(commands, parser)
    return parser


def _add_corpus(commands: argparse._SubParsersAction) -> None:
    corpus = commands.add_parser("corpus", help="the embedded corpus")
    actions = corpus.add_subparsers(dest="corpus_command", required=True, metavar="build")
    build = actions.add_parser("build", help="write parquet shards")
    build.add_argument("--out", type=Path, required=True, help="the folder; the same again goes on where it ended")
    build.add_argument("--size", type=positive, default=20_000, help="records in all splits together")
    build.add_argument("--difficulty", choices=DIFFICULTIES, default="nano", help="how hard the pictures are")
    build.add_argument("--kinds", type=_weights, help="shares, for instance doc=2,chart=1,scene=1,easyvqa=1")
    build.add_argument("--seed", type=int, default=0, help="another one makes other records; 0 by default")
    build.add_argument("--workers", type=positive, help="processes; all cores by default")
    build.set_defaults(run=_corpus_build)


def _add_caption(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "caption",
        help="from images to FineCap records; `caption status DIR` tells how far a run is",
        usage="finevit caption RECIPE --in IMAGES --out DIR [options]\n       finevit caption status DIR [--json]",
    )
    command.add_argument("recipe", help="recipe: a YAML file or the name of a shipped one; or the word: status")
    command.add_argument("directory", nargs="?", type=Path, help="with status: the run's folder")
    command.add_argument("--in", dest="source", type=Path, help="folder of pictures, parquet or WebDataset files")
    command.add_argument("--out", type=Path, help="the run's folder; the same again goes on where it ended")
    command.add_argument(
        "--executor", choices=("local", "ray", "slurm"), default="local", help="who does the work; local by default"
    )
    command.add_argument("--workers", type=positive, help="processes, or CPUs of a local Ray; all cores by default")
    command.add_argument("--tries", type=positive, default=3, help="before a shard is set aside with its error")
    command.add_argument("--only", nargs="+", metavar="PASS", help="do these passes and publish nothing")
    command.add_argument("--leave-out-failed", action="store_true", help="go on for good without shards that failed")
    command.add_argument("--dry-run", action="store_true", help="say what it would cost, and do nothing")
    command.add_argument(
        "--assume", type=Path, help="YAML with other assumptions for --dry-run than the documented ones"
    )
    command.add_argument("--json", action="store_true", help="print status or price as JSON")
    command.set_defaults(run=_caption)


def _add_detector(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("detector", help="serve a zero-shot object detector for the caption engine")
    command.add_argument("folder", type=Path, help="a zero-shot object detector of Transformers and its processor")
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (there is no key)")
    command.add_argument("--port", type=int, default=9000, help="9000 by default")
    command.set_defaults(run=_detector)


def _add_ask(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("ask", help="ask a question about a picture")
    command.add_argument("model", help="model folder")
    command.add_argument("picture", type=Path, help="a picture file")
    command.add_argument("question", help="answered shortly if it ends with '?'; else taken as an instruction")
    command.add_argument("--device", help=DEVICE)
    command.set_defaults(run=_ask)


def _add_ground(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("ground", help="find what an expression refers to, and draw it")
    command.add_argument("model", help="model folder")
    command.add_argument("picture", type=Path, help="a picture file")
    command.add_argument("expression", help='what to look for, for instance "the red car"')
    command.add_argument("--out", type=Path, help="write the picture with its boxes here")
    command.add_argument("--device", help=DEVICE)
    command.set_defaults(run=_ground)


def _weights(text: str) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in (pair.split("=") for pair in text.split(","))}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=number,name=number") from error


def _corpus_build(arguments: argparse.Namespace) -> None:
    from finecap.corpus.build import build_corpus

    a = arguments
    result = build_corpus(a.out, a.size, seed=a.seed, difficulty=a.difficulty, kinds=a.kinds, workers=a.workers)
    print(f"{result.out}: {result.rows} rows, {result.rows_written} new, {result.rows_per_second:.0f} rows/s")


def _caption(arguments: argparse.Namespace) -> None:
    try:
        from finecap.engine import command
    except ImportError as error:
        raise ValueError(f"the caption engine needs more packages ({error}): pip install 'finevit[engine]'") from error

    a = arguments
    if a.recipe == "status":
        if a.directory is None:
            raise ValueError("status of which run? Give its folder: finevit caption status DIR")
        print(command.status(a.directory, a.json))
        return
    if a.source is None or (a.out is None and not a.dry_run):
        raise ValueError("give the images with --in and the run's folder with --out")
    if a.directory is not None:
        raise ValueError(f"{a.directory}: only `status` takes a folder there; give the images with --in")
    if a.assume and not a.dry_run:
        raise ValueError("--assume would have no effect without --dry-run, and the run would begin")
    if a.executor == "slurm" and (a.only or a.leave_out_failed):
        raise ValueError(
            "--only and --leave-out-failed have no effect on what is submitted to Slurm; run them with --executor "
            "local or ray"
        )
    if a.dry_run:
        print(command.price_of(a.recipe, a.source, assume=a.assume, as_json=a.json))
    elif a.executor == "slurm":
        print(command.submit(a.recipe, a.source, a.out, workers=a.workers or 1, tries=a.tries))
    else:
        try:
            run = command.caption(
                a.recipe,
                a.source,
                a.out,
                executor=a.executor,
                workers=a.workers,
                tries=a.tries,
                only=a.only,
                leave_out_failed=a.leave_out_failed,
            )
        except KeyboardInterrupt:
            print("finevit: what is finished or paid is kept; the same command goes on", file=sys.stderr)
            raise
        print(command.status(run.store.out, a.json))


def _detector(arguments: argparse.Namespace) -> None:
    from finecap.engine.detectors.server import serve

    serve(arguments.folder, arguments.host, arguments.port)


def _ask(arguments: argparse.Namespace) -> None:
    from finevit import ask

    generator = ask.load(arguments.model, arguments.device)
    picture = ask.open_picture(arguments.picture, generator.processor.image_processor.max_image_pixels)
    print(ask.ask(generator, picture, arguments.question))


def _ground(arguments: argparse.Namespace) -> int:
    from finevit import ask

    generator = ask.load(arguments.model, arguments.device)
    picture = ask.open_picture(arguments.picture, generator.processor.image_processor.max_image_pixels)
    parsed, answer = ask.ground(generator, picture, arguments.expression)
    for found in parsed.boxes:
        print(" ".join(f"{side:.1f}" for side in found.box))
    for skipped in parsed.skipped:
        print(f"skipped {skipped.text!r}: {skipped.reason}", file=sys.stderr)
    if not parsed.boxes:
        print(f"finevit: the model gave no box; it wrote {answer!r}", file=sys.stderr)
        return 1
    if arguments.out:
        ask.save_drawing(picture, parsed, arguments.expression, arguments.out)
        print(arguments.out)
    return 0


def _serve(arguments: argparse.Namespace) -> None:
    from finevit.serve import serve

    serve(arguments.rest)


def _demo(arguments: argparse.Namespace) -> int:
    # The libraries read it once, when they are imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    from finevit.demo import run_demo

    return run_demo(arguments.out)


def _doctor(arguments: argparse.Namespace) -> int:
    from transformers.utils import logging

    from finevit.doctor import doctor

    logging.set_verbosity_error()  # the findings say what it would warn of
    return doctor()
