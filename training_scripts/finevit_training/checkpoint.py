"""Checkpoints to resume from, and what a finished run leaves: model, processor, recipe, curve, receipt, card."""

import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from accelerate.utils import gather_object
from peft import PeftModel
from PIL import Image
from transformers import PreTrainedModel

from finecap.made_with import weight_hashes
from finevit_training.loop.keeping import checkpoints
from finevit_training.loop.skips import write_skipped
from finevit_training.receipt import encoder_card, model_card
from finevit_training.recipe import Recipe, asked_recipe
from finevit_training.stage import Stage

RECIPE_FILE = "recipe.yaml"
CURVE_FILE = "training_curve.json"
CURVE_PICTURE = "training_curve.png"
RECEIPT_FILE = "receipt.json"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")


def find_checkpoint(out: Path, wanted: str | None) -> str | None:
    """The checkpoint to resume from; the same on all processes, on every node.

    Args:
        out: the run's output folder.
        wanted: "last" (or "true"): the newest checkpoint that is whole on every node; "last-or-start": the same, or
            None where no node has one; else the path of a checkpoint. None and "false" start from scratch.

    A single process removes newer ones that a kill left half-written; several never remove anything.

    Raises:
        ValueError: a path that holds no whole checkpoint, no checkpoint for "last", or checkpoints that not every
            node has.
    """
    name = str(wanted).lower()
    if not wanted or name == "false":
        return None
    if name not in ("true", "last", "last-or-start"):
        if not all(gather_object([_is_whole(Path(wanted))])):
            raise ValueError(
                f"resume_from_checkpoint {wanted} is no whole checkpoint (on every node); give a folder, `last` or "
                "`last-or-start`"
            )
        return wanted
    found = checkpoints(out)
    whole = sorted(step for step, path in found.items() if _is_whole(path))
    of_ranks = [set(steps) for steps in gather_object([whole])]
    if common := set.intersection(*of_ranks):
        newest = max(common)
        if PartialState().num_processes == 1:
            for step in found:
                if step > newest:
                    shutil.rmtree(found[step])
        return str(found[newest])
    if any(of_ranks):
        raise ValueError(
            f"{out} holds checkpoints on some nodes only; put output_dir on a disk that all nodes share, or set "
            "save_on_each_node: true from the beginning"
        )
    if name == "last-or-start":
        return None
    raise ValueError(
        f"{out} holds no whole checkpoint to resume from; set save_minutes or save_strategy: steps in the run that is "
        "to be resumed, or say `--resume_from_checkpoint last-or-start` to begin where there is none"
    )


def refuse_other_model(checkpoint: Path, model: PreTrainedModel) -> None:
    """Raises ValueError if a checkpoint is of another model: another stage's in the same output folder, or one of
    another size.
    """
    config: Any = model.peft_config["default"] if isinstance(model, PeftModel) else model.config
    described = checkpoint / ("adapter_config.json" if isinstance(model, PeftModel) else "config.json")
    if not described.is_file():
        return
    classes = json.loads(described.read_text()).get("architectures")
    if classes and type(model).__name__ not in classes:
        raise ValueError(
            f"the checkpoint {checkpoint} is of a {', '.join(classes)}, and this run trains a {type(model).__name__}; "
            "give it an output_dir of its own, or a checkpoint of this stage"
        )
    there, here = (_numbers(one.to_dict()) for one in (type(config).from_pretrained(checkpoint), config))
    if others := [name for name, value in here.items() if there.get(name) != value]:
        told = ", ".join(f"{name} {there.get(name)} (here {here[name]})" for name in others[:3])
        raise ValueError(
            f"the checkpoint {checkpoint} is of another model: {told}; set the keys of the recipe as they were "
            "(size, text_length and the like), or give the run an output_dir of its own"
        )


def _numbers(config: Mapping[str, Any]) -> dict[str, int]:
    """The whole numbers of a configuration, which decide the shapes of weights; ids of tokens do not."""
    found: dict[str, int] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": number for inner, number in _numbers(value).items()}
        elif type(value) is int and not name.endswith("_id"):
            found[name] = value
    return found


def _is_whole(checkpoint: Path) -> bool:
    # The Trainer writes weights, optimizer and state in this order; only other ranks' random states may come later.
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return all(zipfile.is_zipfile(path) for path in (*checkpoint.glob("rng_state*.pth"), *checkpoint.glob("*.pt")))


def save_output(
    stage: Stage,
    out: Path,
    model: PreTrainedModel,
    state: dict[str, torch.Tensor] | None,
    processor: Any,
    recipe: Recipe,
    receipt: dict[str, Any],
    log_history: list[dict[str, Any]],
    skipped: dict[str, str],
    drawings: Mapping[str, Image.Image],
    average: tuple[str, dict[str, torch.Tensor]] | None = None,
) -> None:
    """Writes everything into a folder beside `out` and moves the files into `out` once all of them are there.

    Weights that a former run left in `out` are removed: from_pretrained could prefer them. An encoder of its own (see
    `Stage.folders`) is put into a folder of `out` with image processor and card, and so is the average, into `ema`.

    Args:
        stage: what was trained.
        out: the run's output folder; checkpoints in it stay.
        model: with adapters merged, as `from_pretrained` should find it.
        state: its whole weights where `model` holds only shards of them, else None.
        receipt: see `finevit_training.receipt.training_receipt`; the hashes of the weights are added.
        log_history: the Trainer's logs.
        skipped: reason by record id.
        drawings: of `Stage.draw`.
        average: the module of the model that was averaged, and its averaged state; None if none was.
    """
    aside = out / ".incomplete"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model.save_pretrained(aside, state_dict=state)
    processor.save_pretrained(aside)
    image_processor = getattr(processor, "image_processor", processor)
    parts = {name: (path, _state_of_part(state, path)) for name, path in stage.folders.items()}
    if average:
        parts["ema"] = average
    for name, (path, own) in parts.items():
        part: Any = model.get_submodule(path)
        part.save_pretrained(aside / name, state_dict=own)
        image_processor.save_pretrained(aside / name)
        (aside / name / "README.md").write_text(encoder_card(name, out.name, part, receipt))
    (aside / RECIPE_FILE).write_text(yaml.safe_dump(asked_recipe(recipe), sort_keys=False))
    curve = [entry for entry in log_history if "loss" in entry or "eval_loss" in entry]
    training = [entry for entry in curve if "loss" in entry]
    (aside / CURVE_FILE).write_text(json.dumps(training, indent=1))
    write_skipped(aside, skipped)
    draw_curve(curve, stage.loss, aside / CURVE_PICTURE)
    for name, drawing in drawings.items():
        drawing.save(aside / name)
    receipt = {**receipt, "weights": weight_hashes(aside)}
    (aside / RECEIPT_FILE).write_text(json.dumps(receipt, indent=1))
    (aside / "README.md").write_text(model_card(stage.card, out.name, receipt))
    _move(aside, out, ("ema", *stage.folders))


def _state_of_part(state: dict[str, torch.Tensor] | None, path: str) -> dict[str, torch.Tensor] | None:
    inside = f"{path}."
    if state is None:
        return None
    return {name.removeprefix(inside): value for name, value in state.items() if name.startswith(inside)}


def _move(aside: Path, out: Path, folders: Sequence[str]) -> None:
    for pattern in _WEIGHTS:
        for old in out.glob(pattern):
            old.unlink()
    for name in folders:
        shutil.rmtree(out / name, ignore_errors=True)
    for path in sorted(aside.iterdir()):
        os.replace(path, out / path.name)
    aside.rmdir()


def draw_curve(curve: list[dict[str, Any]], loss: str, path: Path) -> None:
    """Loss over samples seen, of training and evaluation, as a PNG; `loss` says what it is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, label in (("loss", "training"), ("eval_loss", "evaluation")):
        points = [(entry["samples_seen"], entry[key]) for entry in curve if key in entry]
        if points:
            marker = "o" if key == "eval_loss" or len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), label=label, marker=marker)
    axes.set(xlabel="samples seen", ylabel=f"loss ({loss})")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=120)
