"""What a finished run leaves behind: model, processor, resolved recipe, training curve, model card."""

import json
import os
import platform
import shutil
import string
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
import trl
import yaml
from transformers import PreTrainedModel, ProcessorMixin

from finevit_training.recipe import Recipe, resolved

RECIPE_FILE = "recipe.yaml"
CURVE_FILE = "training_curve.json"
CURVE_PICTURE = "training_curve.png"
SKIPPED_FILE = "skipped_records.json"


def save_output(
    out: Path,
    model: PreTrainedModel,
    state: dict[str, torch.Tensor] | None,
    processor: ProcessorMixin,
    recipe: Recipe,
    log_history: list[dict[str, Any]],
    skipped: dict[str, str],
    card_template: Path,
) -> None:
    """Writes everything into a folder beside `out` and moves the files into `out` once all of them are there.

    Args:
        out: the run's output folder; checkpoints in it stay.
        model: with adapters merged, as `from_pretrained` should find it.
        state: its whole weights where `model` holds only shards of them, else None.
        log_history: the Trainer's logs.
        skipped: reason by record id.
        card_template: text with `$name`s, see `model_card`.
    """
    aside = out / ".incomplete"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model.save_pretrained(aside, state_dict=state)
    processor.save_pretrained(aside)
    (aside / RECIPE_FILE).write_text(yaml.safe_dump(resolved(recipe), sort_keys=False))
    curve = [entry for entry in log_history if "loss" in entry]
    (aside / CURVE_FILE).write_text(json.dumps(curve, indent=1))
    (aside / SKIPPED_FILE).write_text(json.dumps(skipped, indent=1))
    draw_curve(curve, aside / CURVE_PICTURE)
    (aside / "README.md").write_text(model_card(card_template, model, recipe, curve))
    for path in sorted(aside.iterdir()):
        os.replace(path, out / path.name)
    aside.rmdir()


def draw_curve(curve: list[dict[str, Any]], path: Path) -> None:
    """Loss over samples seen, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([entry["samples_seen"] for entry in curve], [entry["loss"] for entry in curve])
    axes.set(xlabel="samples seen", ylabel="training loss (nats per supervised token)")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def model_card(template_path: Path, model: PreTrainedModel, recipe: Recipe, curve: list[dict[str, Any]]) -> str:
    """The card: the template with what is known about this model and run filled in."""
    template = string.Template(template_path.read_text())
    last = curve[-1] if curve else {}
    vision, text = model.config.vision_config, model.config.get_text_config()
    return template.substitute(
        name=Path(recipe.training.output_dir).name,
        parameters=f"{sum(p.numel() for p in model.parameters()):,}",
        vision=f"FineViT, {vision.num_hidden_layers} layers, width {vision.hidden_size}",
        text=f"{text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}",
        data=", ".join(Path(path).name for path in recipe.data.data),
        samples=f"{last.get('samples_seen', 0):,}",
        steps=f"{last.get('step', 0):,}",
        loss=f"{last['loss']:.4f}" if last else "none logged",
        minutes=f"{last.get('elapsed_seconds', 0) / 60:.1f}",
        speed=f"{last.get('images_per_second', 0):.0f}",
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})",
        recipe=yaml.safe_dump(resolved(recipe), sort_keys=False).strip(),
        versions=", ".join(f"{m.__name__} {m.__version__}" for m in (torch, transformers, trl, accelerate)),
    )
