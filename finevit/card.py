"""`finevit card`: what was measured goes into the README.md of a model folder, for people and for the Hub."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from finecap.files import write_text
from finecap.made_with import weight_hashes
from finevit_eval.model_kinds import DUAL, ENCODER, VISION_LANGUAGE, model_kind
from finevit_eval.report.runs import Run, gather
from finevit_eval.report.scores import others_of, title_of
from finevit_training.receipt import model_card
from finevit_vl.model_folder import check_model_folder

MEASURED, LICENSE = "Measured", "License"
"""Sections of the card that this module writes; all others are left as they are."""
DATASET = re.compile(r"(?:hf://datasets/|datasets:)([\w.-]+/[\w.-]+)")
"""Places of data that are surely on the Hub; `owner/name` alone may be a folder."""
TEMPLATES = {VISION_LANGUAGE: "vl.md", DUAL: "dual.md", ENCODER: "mim.md"}
ALIGNED = "encoder"
"""Folder that stage III leaves in the model's."""


def write_card(folder: Path, results: Sequence[Path] = (), license_id: str | None = None) -> Path:
    """Write figures, licence and data into the card of a model folder.

    The card that is there is kept but for the sections "Measured" and "License" and the head; where there is none it
    is made from receipt.json and the template of the model's kind, as a training makes it.

    Args:
        folder: Of the model.
        results: Folders of `finevit eval` on these weights, sighted and blind; without any the card's figures stay.
        license_id: An id of the Hub, such as apache-2.0; without one the card's licence stays.

    Returns:
        The card's path.

    Raises:
        ValueError: The folder holds no model, or neither card nor receipt; results are of other weights; the head
            cannot be read.
    """
    check_model_folder(folder)
    path, receipt = folder / "README.md", _receipt(folder)
    card = ModelCard(path.read_text(encoding="utf-8") if path.is_file() else _new_card(folder, receipt))
    data: Any = card.data
    if results:
        runs = _runs_of(folder, results)
        data.model_name = folder.resolve().name
        data.eval_results = [one for run in runs for one in _eval_results(run, data.get("pipeline_tag"))]
        card.text = with_section(card.text, MEASURED, _measured(runs))
    if license_id:
        data.license = license_id
        card.text = with_section(card.text, LICENSE, f"{license_id}, see the head of this file.")
    places = " ".join(receipt.get("data", {}).get("corpora", []))
    if found := sorted(set(DATASET.findall(places))):
        data.datasets = found
    check_card(str(card))
    write_text(path, str(card))
    return path


def _runs_of(folder: Path, results: Sequence[Path]) -> list[Run]:
    runs, weights = gather(results), weight_hashes(folder)
    for run in runs:
        if run.results["receipts"]["score"].get("weights") != weights:
            raise ValueError(f"The results in {run.folder} are of other weights than {folder} holds; measure it anew.")
    return runs


def check_card(text: str) -> None:
    """Checks without the Hub what `ModelCard.validate` asks it about: the head is YAML and comes back as it was, and
    its figures are a model-index.

    Raises:
        ValueError: the head is none.
    """
    card = ModelCard(text)
    again = ModelCard(str(card))
    if again.data.to_dict() != card.data.to_dict() or not card.data.get("pipeline_tag"):
        raise ValueError("The head of README.md cannot be read back, or names no pipeline_tag; mend it by hand.")


def with_section(text: str, name: str, body: str) -> str:
    """A text in Markdown with another body of a section of the second level, or with that section at its end."""
    section = f"## {name}\n{body}\n\n"
    found = re.search(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        return f"{text.rstrip()}\n\n{section.rstrip()}\n"
    return text[: found.start()] + section + text[found.end() :]


def _receipt(folder: Path) -> dict[str, Any]:
    path = folder / "receipt.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _new_card(folder: Path, receipt: Mapping[str, Any]) -> str:
    template = "align.md" if (folder / ALIGNED).is_dir() else TEMPLATES.get(model_kind(folder) or "")
    if template is None or not receipt.get("trained"):
        raise ValueError(f"{folder} holds neither README.md nor a training's receipt.json; write the card by hand.")
    return model_card(template, folder.resolve().name, receipt)


def _eval_results(run: Run, pipeline_tag: str) -> Iterator[EvalResult]:
    """The headline and further scores of each evaluation, as the Hub's model-index holds them."""
    receipt = run.results["receipts"]["score"]
    data = str(receipt.get("data", "data"))
    for name, task in run.results["tasks"].items():
        low, high = task["interval"]
        about = {"n": task["n"], "interval": [round(low, 4), round(high, 4)]}
        for metric, value in {task["metric"]: task["score"], **others_of(task)}.items():
            yield EvalResult(
                task_type=pipeline_tag,
                task_name=title_of(name),
                dataset_type=data,
                dataset_name=f"{Path(data).name}: {title_of(name)}",
                dataset_config=name,
                dataset_split=receipt.get("split"),
                dataset_args={"fingerprint": receipt["tasks"][name].get("fingerprint")},
                metric_type=metric,
                metric_value=round(value, 4),
                metric_args=about if metric == task["metric"] else None,
            )


def _measured(runs: Sequence[Run]) -> str:
    lines = ["| evaluation | metric | n | score | 95 % | controls |", "|---|---|---|---|---|---|"]
    for run in runs:
        for name, task in run.results["tasks"].items():
            low, high = task["interval"]
            controls = {"blind": task["blind_score"]} if "blind_score" in task else {}
            worth = ", ".join(f"{key} {value:.3f}" for key, value in (controls | task.get("controls", {})).items())
            score = f"{task['score']:.3f} | {low:.3f} to {high:.3f} | {worth}"
            lines.append(f"| {title_of(name)} | {task['metric']} | {task['n']:,} | {score} |")
    ways = [_way(run.results["receipts"]["score"]) for run in runs]
    return "\n".join([*lines, "", *dict.fromkeys(ways), f"95 %: {runs[0].results['interval_method']}."])


def _way(receipt: Mapping[str, Any]) -> str:
    """How a run was measured, on one line."""
    names = ("data", "split", "limit", "seed", "dtype", "max_pixels", "commit")
    facts = ", ".join(f"{name} {receipt[name]}" for name in names if receipt.get(name) is not None)
    return f"Measured by `finevit eval` on {receipt.get('date', 'an unknown day')}: {facts}."
