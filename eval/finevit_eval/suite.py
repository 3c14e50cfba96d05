"""THE list of evaluations. One entry here and one runner add another; nothing else names them.

A runner takes the names of those of its evaluations that were chosen, the model, the data, a folder for what it
exports, and the settings; it loads the model once. The module itself loads neither torch nor lmms-eval, so that the
command line can name the evaluations at once.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finecap.made_with import weight_hashes
from finevit_eval.result import RESULTS_FILE, Measured, Outcome, Results, Settings, score_entry, write_results

VISION_LANGUAGE = "a vision-language model"
DUAL = "a model of pictures and texts"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
        needs: What kind of model it measures.
        metric: Name of the headline score, 0-1.
        title: For people.
        runner: Measures a model.
    """

    needs: str
    metric: str
    title: str
    runner: Callable[[Sequence[str], str, Path, Path, Settings], Measured]


def _questions(names: Sequence[str], model: str, data: Path, out: Path, settings: Settings) -> Measured:
    from finevit_eval.questions.run import ask_questions

    return ask_questions(names, model, data, out, settings)


def _retrieval(names: Sequence[str], model: str, data: Path, out: Path, settings: Settings) -> Measured:
    from finevit_eval.retrieval.run import retrieve

    return retrieve(names, model, data, out, settings)


EVALUATIONS = {
    "doc": Evaluation(VISION_LANGUAGE, "anls", "Documents", _questions),
    "chart": Evaluation(VISION_LANGUAGE, "relaxed_accuracy", "Charts", _questions),
    "grounding": Evaluation(VISION_LANGUAGE, "acc@0.5", "Grounding", _questions),
    "easyvqa": Evaluation(VISION_LANGUAGE, "accuracy", "easy-vqa", _questions),
    "t2i_short": Evaluation(DUAL, "r@1", "Pictures by short captions", _retrieval),
    "i2t_short": Evaluation(DUAL, "r@1", "Short captions by pictures", _retrieval),
    "t2i_dense": Evaluation(DUAL, "r@1", "Pictures by dense captions", _retrieval),
    "i2t_dense": Evaluation(DUAL, "r@1", "Dense captions by pictures", _retrieval),
}


def evaluate(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    names: Sequence[str] = (),
    settings: Settings = Settings(),  # noqa: B008 - frozen
) -> Results:
    """Measure a model and write `results.json` and `samples_<name>.jsonl`.

    Args:
        model: Folder of model and processor, or a Hub id.
        data: FineCap records in the Hub's layout.
        out: For the results; what a runner exports goes to a folder below it.
        names: Of `EVALUATIONS`; without any, all that the model can do (of a model on the Hub: answer questions).
        settings: How.

    Returns:
        What `results.json` holds, see `finevit_eval.result.Results`. Boxes in the samples are pixels x1, y1, x2, y2.

    Raises:
        ValueError: Model, data or settings cannot be used.
        RuntimeError: A harness failed, lost questions, or gave a score that is not a number.
    """
    from finevit_eval.receipts import local_folder, make_receipt
    from finevit_vl.model_folder import check_model_folder

    unknown = sorted(set(names) - set(EVALUATIONS))
    if unknown:
        raise ValueError(f"Unknown evaluations {unknown}; expected some of {', '.join(EVALUATIONS)}.")
    check_model_folder(model)
    names = _chosen(names, Path(model))
    for old in (Path(out) / RESULTS_FILE, *Path(out).glob("samples_*.jsonl")):
        old.unlink(missing_ok=True)
    outcomes: dict[str, Outcome] = {}
    facts: dict[str, Any] = {}
    for runner in dict.fromkeys(EVALUATIONS[name].runner for name in names):
        mine = [name for name in names if EVALUATIONS[name].runner is runner]
        measured = runner(mine, str(model), Path(data), Path(out), settings)
        outcomes |= measured.outcomes
        facts |= measured.facts
    entries = {name: score_entry(EVALUATIONS[name].metric, outcomes[name]) for name in names}
    asked = {
        "model": str(model),
        "weights": weight_hashes(local_folder(model)),
        "data": str(data),
        **vars(settings),
        **facts,
    }
    tasks = {name: {"n": entries[name]["n"], **outcomes[name].facts} for name in names}
    return write_results(Path(out), entries, outcomes, make_receipt({**asked, "tasks": tasks}))


def _chosen(names: Sequence[str], model: Path) -> list[str]:
    """The evaluations of `names`, each once, or all that the model can do.

    Raises:
        ValueError: It can do none, or not all that are named. A model of the Hub is looked at when it is loaded.
    """
    kind = _kind(model)
    for name in names:
        needs = EVALUATIONS[name].needs
        if model.is_dir() and needs != kind:
            raise ValueError(f"{name} needs {needs}; {model} holds {kind or 'something else'} (config.json).")
    chosen = list(dict.fromkeys(names)) or [name for name, item in EVALUATIONS.items() if item.needs == kind]
    if not chosen:
        raise ValueError(
            f"{model} holds neither {VISION_LANGUAGE} nor {DUAL} (config.json); no evaluation measures other ones."
        )
    return chosen


def _kind(model: Path) -> str | None:
    """What a folder holds: what two towers have in common, and a token for pictures besides in those that answer."""
    if not model.is_dir():
        return VISION_LANGUAGE
    config = json.loads((model / "config.json").read_text("utf-8"))
    if "text_config" not in config or "vision_config" not in config:
        return None
    return VISION_LANGUAGE if "image_token_id" in config or "image_token_index" in config else DUAL
