"""receipt.json: what a training was asked, what this machine made of it, on which data; and the card from it."""

import string
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml
from transformers import PreTrainedModel, TrainerState

from finecap.made_with import made_with
from finecap.recipe_files import without_folders
from finevit_training.recipe import Recipe, asked_recipe, resolved_recipe

PACKAGES = ("finevit", "torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "torchvision")


def training_receipt(
    recipe: Recipe, state: TrainerState, facts: Mapping[str, Any], processes: int, resumed_from: str | None
) -> dict[str, Any]:
    """What a finished training needs beside it to be believed and repeated, in values of JSON.

    Data and models count by their hashes. Of a path on this machine a receipt holds the last part alone, because the
    rest is nobody else's business; recipe.yaml keeps whole paths, so that it runs again.

    Args:
        recipe: the run's recipe.
        state: the Trainer's state at the end.
        facts: what the stage knows: "model", "data", "eval_data" where there was an evaluation, "skipped".
        processes: how many processes trained.
        resumed_from: the checkpoint that the last start went on from.
    """
    logged = [entry for entry in state.log_history if "loss" in entry]
    last = logged[-1] if logged else {}
    evaluated = [entry for entry in state.log_history if "eval_loss" in entry]
    receipt = {
        **made_with(PACKAGES),
        "processes": processes,
        "recipe": {"asked": asked_recipe(recipe), "resolved": resolved_recipe(recipe)},
        "trained": {
            "steps": state.global_step,
            "samples": last.get("samples_seen", 0),
            "flops": state.total_flos,
            "minutes": round(last.get("elapsed_seconds", 0.0) / 60, 2),
            "images_per_second": last.get("images_per_second"),
            "last_loss": last.get("loss"),
            **{name: share for name, share in last.items() if name.endswith("_share")},
            "evaluations": [{"step": entry["step"], "loss": entry["eval_loss"]} for entry in evaluated],
            "best_eval_loss": state.best_metric,
            "best_step": state.best_global_step,
            "resumed_from": resumed_from,
        },
        **facts,
    }
    return without_folders(receipt)


def model_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Size and kind of a FineViT-VL."""
    config: Any = model.config
    vision, text = config.vision_config, config.get_text_config()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vision": f"FineViT, {vision.num_hidden_layers} layers, width {vision.hidden_size}",
        "text": f"{text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}",
    }


def model_card(card: str, name: str, receipt: Mapping[str, Any]) -> str:
    """The card of a trained model: a shipped template filled in from its receipt. It holds no score: `finevit card`
    writes what was measured into it.
    """
    path = files("finevit_training").joinpath("card_templates", card)
    template = string.Template(path.read_text(encoding="utf-8"))
    trained = receipt["trained"]
    loss, speed, best = trained["last_loss"], trained["images_per_second"], trained["best_step"]
    device = ", ".join(receipt["gpus"]) or f"{receipt['cpu']} ({receipt['threads']} threads)"
    commit, evaluations = receipt["commit"], trained["evaluations"]
    model = {key: f"{value:,}" if isinstance(value, int) else value for key, value in receipt["model"].items()}
    return template.substitute(
        model,
        name=name,
        data=_in_words(receipt["data"]),
        samples=f"{trained['samples']:,}",
        steps=f"{trained['steps']:,}",
        loss="none logged" if loss is None else f"{loss:.4f}",
        evaluated=f" Loss in evaluation at step {evaluations[-1]['step']:,}: {evaluations[-1]['loss']:.4f}. "
        f"It is measured on {_in_words(receipt['eval_data'])}."
        if evaluations
        else "",
        best=""
        if best is None
        else f" The weights are those of step {best:,}, the best in evaluation "
        f"(loss {trained['best_eval_loss']:.4f}).",
        minutes=f"{trained['minutes']:.1f}",
        hours=f"{trained['minutes'] / 60:.2f}",
        speed="an unknown number of" if speed is None else f"{speed:.0f}",
        device=device,
        recipe=yaml.safe_dump(receipt["recipe"]["asked"], sort_keys=False).strip(),
        versions=", ".join(f"{package} {number}" for package, number in receipt["versions"].items() if number),
        commit="" if commit is None else f", commit {commit}",
    )


def encoder_card(folder: str, whole: str, encoder: PreTrainedModel, receipt: Mapping[str, Any]) -> str:
    """The card of an encoder in a folder of a whole model: in `ema` its average over the steps."""
    state = "its weights averaged over the steps (`ema_decay`)" if folder == "ema" else "as the training left it"
    facts = receipt["model"] | {"parameters": encoder.num_parameters(), "whole": whole, "state": state}
    return model_card("encoder.md", f"{whole}/{folder}", {**receipt, "model": facts})


def _in_words(data: Mapping[str, Any]) -> str:
    """Data of a receipt: its sources, split and number of records."""
    corpora = ", ".join(f"`{path}`" for path in data["corpora"])
    records = "an unknown number of" if data["records"] is None else f"{data['records']:,}"
    return f"{corpora}, split {data['split']}, {records} records"
