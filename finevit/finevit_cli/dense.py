"""`finevit features`: what an encoder makes of each patch, as maps to look at or as files."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finevit_cli.values import DEVICE, positive


def add_features(commands: argparse._SubParsersAction) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "features",
        help="show what a model makes of each patch of a picture, or save it",
        usage="finevit features PICTURE ... --model FOLDER --out DIR [options]",
    )
    command.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="picture files, or folders of them")
    command.add_argument("--model", required=True, help="folder of an encoder or of a model with one, or a Hub id")
    command.add_argument("--out", type=Path, required=True, help="for the maps and features.html, or the files")
    command.add_argument("--phrase", help='show where this is, for instance "the red bus" (models that read text)')
    command.add_argument(
        "--point", type=_numbers(2), metavar="X,Y", help="show what is like the patch there; pixels, first picture"
    )
    command.add_argument(
        "--box", type=_numbers(4), metavar="X1,Y1,X2,Y2", help="show what is like the mean of this box, likewise"
    )
    command.add_argument(
        "--save", choices=("npz", "safetensors"), help="draw nothing, but write each picture's features to such a file"
    )
    command.add_argument("--max-pixels", type=positive, help="area budget of a picture; the processor's by default")
    command.add_argument("--device", help=DEVICE)
    command.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: as stored"
    )
    command.set_defaults(run=_features)


def _numbers(count: int) -> Callable[[str], tuple[float, ...]]:
    def numbers(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count:
            raise argparse.ArgumentTypeError(f"{text!r} is not {count} numbers with commas between them")
        return values

    return numbers


def _features(arguments: argparse.Namespace) -> None:
    from finevit_eval.dense.map_choice import Asked
    from finevit_eval.dense.picture_files import picture_files
    from finevit_vl.model_folder import check_model_folder

    a = arguments
    asked = Asked(a.phrase, a.point, a.box)
    if a.save and asked != Asked():
        raise ValueError("--phrase, --point and --box have no effect with --save, which draws nothing")
    files = picture_files(a.pictures)
    check_model_folder(a.model)
    encoder, facts = _loaded(a)
    if not a.save:
        print(_drawing()(encoder, files, asked, a.out, facts))
        return
    from finevit_eval.dense.saving import save_features

    saved = save_features(encoder, files, a.out, a.save, facts)
    for picture, reason in saved.skipped.items():
        print(f"skipped {picture}: {reason}", file=sys.stderr)
    print(f"{a.out}: features of {len(saved.files)} pictures, {len(saved.skipped)} skipped")


def _drawing() -> Callable[..., Path]:
    try:
        from finevit_eval.dense.run import draw_features
    except ImportError as error:
        raise ValueError(f"drawing needs more packages ({error}): pip install 'finevit[eval]'") from error
    return draw_features


def _loaded(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The encoder, and what a reader needs to know of the model."""
    from finecap.made_with import weight_hashes
    from finevit_eval.dense.patch_encoder import PatchEncoder
    from finevit_eval.embedder import Embedder
    from finevit_eval.receipts import local_folder

    a = arguments
    encoder = PatchEncoder(Embedder.from_pretrained(a.model, a.device, a.dtype), a.max_pixels)
    folder = local_folder(a.model)
    facts = {"model": folder.resolve().name if Path(a.model).is_dir() else a.model, "weights": weight_hashes(folder)}
    return encoder, {**facts, "dtype": encoder.embedder.facts["dtype"], "device": encoder.embedder.facts["device"]}
