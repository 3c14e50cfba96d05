"""`finevit eval`, `finevit report` and `finevit card`: measure a model, and show what was measured."""

import argparse
import json
import sys
from pathlib import Path

from finevit_cli.values import DEVICE, positive
from finevit_eval.suite import EVALUATIONS


def add_measuring(commands: argparse._SubParsersAction) -> None:
    """Adds the three commands."""
    _add_eval(commands)
    _add_report(commands)
    _add_card(commands)


def _add_eval(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "eval",
        help="measure a model; without a name, all that it can do; without --data, what that is",
        usage="finevit eval [NAME ...] --model FOLDER --data FOLDER --out DIR [options]\n"
        "       finevit eval compare RUN RUN",
    )
    command.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of an evaluation or a suite: {', '.join(_names())}; or the word compare, and two folders of results",
    )
    command.add_argument("--model", help="folder of model and processor, or a Hub id")
    command.add_argument("--data", help="folder in the layout that the evaluations take, or a dataset's Hub id")
    command.add_argument("--out", type=Path, help="for results.json and the samples")
    command.add_argument("--limit", type=positive, help="samples per evaluation, drawn by seed")
    command.add_argument("--batch-size", type=positive, default=16, help="samples at once; 16 by default")
    command.add_argument("--max-pixels", type=positive, help="area budget of a picture; the processor's by default")
    command.add_argument("--blind", action="store_true", help="show grey pictures: what is still right was guessed")
    command.add_argument("--split", default="test", help="of the data; test by default")
    command.add_argument("--seed", type=int, default=0, help="of the draw of --limit")
    command.add_argument("--device", help=DEVICE)
    command.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: as stored"
    )
    command.set_defaults(run=_eval)


def _names() -> list[str]:
    return list(dict.fromkeys([*(item.suite for item in EVALUATIONS.values()), *EVALUATIONS]))


def _add_report(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("report", help="write an HTML report, and JSON and CSV beside it, from evaluations")
    command.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="--out of `finevit eval`, of any suites and models; a blind one goes beside its model's",
    )
    command.add_argument("--base", type=Path, help="--out of the evaluation of the checkpoint before tuning")
    command.add_argument("--curve", type=Path, help="training curve (JSON) in the model folder")
    command.add_argument("--pictures", type=Path, help="folder of pictures to show, such as `finevit features` writes")
    command.add_argument("--examples", type=positive, default=12, help="samples shown, and failures; 12 by default")
    command.add_argument("--out", type=Path, required=True, help="the HTML file")
    command.set_defaults(run=_report)


def _add_card(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("card", help="write what was measured into the README.md of a model folder")
    command.add_argument("folder", type=Path, help="of the model; a card that is there keeps its other sections")
    command.add_argument(
        "--results", nargs="+", type=Path, default=[], metavar="RUN", help="--out of `finevit eval` on this model"
    )
    command.add_argument("--license", metavar="ID", help="of the Hub, for instance apache-2.0")
    command.set_defaults(run=_card)


def _eval(arguments: argparse.Namespace) -> None:
    from finevit_eval.model_kinds import model_kind
    from finevit_eval.result import Settings
    from finevit_eval.run import evaluate, what_it_can_do
    from finevit_vl.model_folder import check_model_folder

    a = arguments
    if a.names[:1] == ["compare"]:
        _compare(a)
        return
    if a.model is None:
        raise ValueError("give the model's folder, or its Hub id, with --model")
    if not a.names and a.data is None:
        check_model_folder(a.model)
        print(what_it_can_do(model_kind(a.model)))
        return
    if a.out is None:
        raise ValueError("give a folder for the results with --out")
    settings = Settings(
        split=a.split,
        limit=a.limit,
        blind=a.blind,
        max_pixels=a.max_pixels,
        batch_size=a.batch_size,
        seed=a.seed,
        device=a.device,
        dtype=a.dtype,
    )
    results = evaluate(a.model, a.data, a.out, a.names, settings)
    for name, task in results["tasks"].items():
        low, high = task["interval"]
        controls = "".join(f", {control} {value:.4f}" for control, value in task["controls"].items())
        figures = f"n={task['n']:<6} {task['score']:.4f} (95 %: {low:.4f} to {high:.4f}{controls})"
        print(f"{name:<10} {task['metric']:<17} {figures}")
    for reason in results["receipt"].get("skipped", []):
        print(f"skipped {reason}", file=sys.stderr)


def _compare(arguments: argparse.Namespace) -> None:
    from finevit_eval.compare import as_text, compare

    a = arguments
    if len(a.names) != 3 or a.model or a.data or a.out:
        raise ValueError("compare takes two folders of results and nothing else: finevit eval compare RUN RUN")
    print(as_text(compare(Path(a.names[1]), Path(a.names[2]))))


def _report(arguments: argparse.Namespace) -> None:
    from finevit_eval.report.examples import pick_examples
    from finevit_eval.report.report import write_report
    from finevit_eval.report.runs import gather

    a = arguments
    runs = gather(a.runs, a.base)
    curve = _read_curve(a.curve) if a.curve else []
    write_report(runs, pick_examples(runs, a.examples), a.out, curve, a.pictures)
    print(a.out)


def _card(arguments: argparse.Namespace) -> None:
    from finevit.card import write_card

    print(write_card(arguments.folder, arguments.results, arguments.license))


def _read_curve(path: Path) -> list[dict[str, float]]:
    try:
        curve = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(curve, list) and all(isinstance(step, dict) for step in curve):
            return curve
    except OSError as error:
        raise ValueError(f"{path}: no such file; give the training curve (JSON) of a model folder.") from error
    except ValueError:  # no JSON, or not UTF-8
        pass
    raise ValueError(f"{path} is not a training curve; give the training_curve.json of a model folder.")
