"""Measures a model by evaluations of the list: chooses them, runs them, and writes what they found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from finecap.hub import is_hub_id
from finecap.made_with import weight_hashes
from finecap.nearest import did_you_mean
from finevit_eval.kept import KEPT_FILE
from finevit_eval.model_kinds import model_kind
from finevit_eval.receipts import local_folder, make_receipt, samples_seen
from finevit_eval.result import RESULTS_FILE, Outcome, Results, Settings, score_entry, write_results
from finevit_eval.suite import EVALUATIONS
from finevit_vl.model_folder import check_model_folder


def evaluate(
    model: str | Path,
    data: str | Path | None,
    out: str | Path,
    names: Sequence[str] = (),
    settings: Settings = Settings(),  # noqa: B008 - frozen
) -> Results:
    """Measure a model and write `results.json`, `samples_<name>.jsonl` and `pictures_<name>.parquet`.

    One that fails does not take the others along: what they found is written, and then the failure is raised.

    Args:
        model: Folder of model and processor, or a Hub id.
        data: A folder or the id of a dataset on the Hub, in the layout that the evaluations take; None for evaluations
            that bring their data along.
        out: For the results; what a runner exports goes to a folder below it.
        names: Of `EVALUATIONS` or of suites; without any, all that the model can do with such data.
        settings: How.

    Returns:
        What `results.json` holds, see `finevit_eval.result.Results`. Boxes in the samples are pixels x1, y1, x2, y2.

    Raises:
        ValueError: Model, data or settings cannot be used.
        RuntimeError: A harness failed, lost questions, or gave a score that is not a number.
    """
    check_model_folder(model)
    out = Path(out)
    if out.is_file():
        raise ValueError(f"{out} is a file; the results need a folder.")
    names = choose(names, model, model_kind(model), data is not None)
    place = None if data is None else local_data(data)
    for old in (out / RESULTS_FILE, *out.glob("samples_*.jsonl"), *out.glob("pictures_*.parquet")):
        old.unlink(missing_ok=True)
    outcomes: dict[str, Outcome] = {}
    entries: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    failures: dict[str, Exception] = {}
    for runner in dict.fromkeys(EVALUATIONS[name].runner for name in names):
        mine = [name for name in names if EVALUATIONS[name].runner is runner]
        try:
            measured = runner(mine, str(model), place, out, settings)
            entries |= {name: score_entry(EVALUATIONS[name].metric, measured.outcomes[name]) for name in mine}
        except Exception as error:
            failures |= dict.fromkeys(mine, error)
            continue
        outcomes |= measured.outcomes
        facts |= _joined(facts, measured.facts)
    if failures and not outcomes:
        raise next(iter(failures.values()))
    folder = local_folder(model)
    about = {"model": str(model), "weights": weight_hashes(folder), **samples_seen(folder)}
    asked = {**about, "data": str(data), **vars(settings), **facts}
    tasks = {name: {"n": entries[name]["n"], **outcome.facts} for name, outcome in outcomes.items()}
    failed = {name: f"{type(error).__name__}: {error}" for name, error in failures.items()}
    results = write_results(out, entries, outcomes, make_receipt({**asked, "tasks": tasks}), failed)
    for error in failures.values():
        error.add_note(f"{', '.join(failures)} failed; the results of {', '.join(outcomes)} are in {out}")
        raise error
    (out / KEPT_FILE).unlink(missing_ok=True)
    return results


def local_data(data: str | Path) -> Path:
    """The folder of data: `data` itself, or the copy of a dataset on the Hub, which is fetched.

    Raises:
        ValueError: It is neither, or cannot be fetched.
    """
    if Path(data).is_dir():
        return Path(data)
    if not is_hub_id(data):
        raise ValueError(f"{data} is no folder; give one, or the id of a dataset on the Hub (owner/name).")
    try:
        return Path(snapshot_download(str(data), repo_type="dataset"))
    except OSError as error:
        raise ValueError(f"The dataset {data} cannot be fetched: {error}") from error


def _joined(facts: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of two runners: lists, such as of what was skipped, go on; of other values the first stays."""
    return {
        name: [*facts[name], *value] if isinstance(value, list) and name in facts else facts.get(name, value)
        for name, value in more.items()
    }


def choose(names: Sequence[str], model: str | Path, kind: str | None, with_data: bool) -> list[str]:
    """The evaluations of `names`, each once, or all that the model can do.

    Args:
        names: Of evaluations and suites; of a suite those are meant that the model can do.
        kind: Of the model.
        with_data: Is there data? Without any, only evaluations that bring their own can be run.

    Raises:
        ValueError: One is unknown or not for this model or these data, or two take different data.
    """
    able = [name for name, item in EVALUATIONS.items() if kind in item.needs]
    if unknown := [name for name in names if name not in EVALUATIONS and name not in _suites()]:
        hint = did_you_mean(unknown, [*EVALUATIONS, *_suites()])
        raise ValueError(f"There is no evaluation {unknown[0]!r}{hint}; expected some of {', '.join(_known())}.")
    chosen: list[str] = []
    for name in names:
        chosen += [name] if name in EVALUATIONS else [one for one in able if EVALUATIONS[one].suite == name]
        if name in EVALUATIONS and name not in able:
            needs = " or ".join(EVALUATIONS[name].needs)
            raise ValueError(f"{name} needs {needs}; {model} holds {kind or 'something else'} (config.json).")
    if not names:
        chosen = _default(able, with_data)
    if not chosen:
        raise ValueError(f"{model} holds {kind or 'no model that can be measured'}. {what_it_can_do(kind)}")
    layouts = {EVALUATIONS[name].data: name for name in chosen}
    if len(layouts) > 1:
        takes = " and ".join(f"{name} takes {layout or 'no data'}" for layout, name in layouts.items())
        raise ValueError(f"{takes}; measure them in separate runs.")
    if with_data != (EVALUATIONS[chosen[0]].data is not None):
        takes = EVALUATIONS[chosen[0]].data
        raise ValueError(
            f"{chosen[0]} {f'needs --data: {takes}' if takes else 'brings its data along; leave --data out'}."
        )
    return list(dict.fromkeys(chosen))


def _default(able: Sequence[str], with_data: bool) -> list[str]:
    """All for the layout that most evaluations of this model take: FineCap records where it can do some."""
    layouts = [EVALUATIONS[name].data for name in able if (EVALUATIONS[name].data is not None) == with_data]
    return [name for name in able if layouts and EVALUATIONS[name].data == layouts[0]]


def _suites() -> list[str]:
    return list(dict.fromkeys(item.suite for item in EVALUATIONS.values()))


def _known() -> list[str]:
    return [*_suites(), *EVALUATIONS]


def what_it_can_do(kind: str | None) -> str:
    """The evaluations that can measure a kind of model, with the data that each takes; one line for each layout."""
    layouts: dict[str | None, list[str]] = {}
    for name, item in EVALUATIONS.items():
        if kind in item.needs:
            layouts.setdefault(item.data, []).append(name)
    if not layouts:
        return f"It can be measured by none of {', '.join(EVALUATIONS)}."
    lines = [f"{', '.join(names)} (--data: {layout or 'none'})" for layout, names in layouts.items()]
    return "It can be measured by " + "; ".join(lines) + "."
