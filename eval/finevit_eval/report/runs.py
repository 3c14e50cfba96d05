"""The runs of a report: each model's results beside its blind and its base run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finevit_eval.result import Results, combine, load_results


@dataclass(frozen=True)
class Run:
    """Results of one model.

    Attributes:
        label: Of the model, for people.
        folder: That the evaluation wrote.
        results: As `finevit_eval.result.combine` gives them.
        blind_folder: Of the blind run that stands beside it.
    """

    label: str
    folder: Path
    results: Results
    blind_folder: Path | None = None


def gather(folders: Sequence[Path], base: Path | None = None) -> list[Run]:
    """Put folders of results in order: a blind run goes beside the run of the same weights and evaluations.

    Args:
        folders: Of `finevit eval`, of any models and suites, sighted and blind.
        base: Of the checkpoint that models were tuned from; goes beside every run with the same evaluations.

    Raises:
        ValueError: A folder holds no results, or a blind or the base run fits none of the others.
    """
    loaded = {folder: load_results(folder) for folder in dict.fromkeys(folders)}
    blind = {folder: run for folder, run in loaded.items() if run["receipt"].get("blind")}
    sighted = {folder: run for folder, run in loaded.items() if folder not in blind}
    if not sighted:
        raise ValueError("Every run given was blind; give one without --blind too.")
    before = None if base is None else load_results(base)
    partners: dict[Path, Path | None] = {folder: _partner(run, blind) for folder, run in sighted.items()}
    if lonely := [folder for folder in blind if folder not in partners.values()]:
        raise ValueError(
            f"{lonely[0]} is a blind run, and none of the others is of the same weights and evaluations; give the run "
            "with its pictures too."
        )
    based = [folder for folder, run in sighted.items() if before is not None and _shares_all(run, before)]
    if before is not None and not based:
        raise ValueError(f"The base run in {base} has the evaluations of none of the others.")
    labels = _labels(sighted)
    runs = []
    for folder, run in sighted.items():
        partner = partners[folder]
        both = combine(run, blind.get(partner) if partner else None, before if folder in based else None)
        runs.append(Run(labels[folder], folder, both, partner))
    return runs


def _partner(run: Results, blind: dict[Path, Results]) -> Path | None:
    weights = run["receipt"].get("weights")
    fit = (f for f, other in blind.items() if other["receipt"].get("weights") == weights and _shares_all(run, other))
    return next(fit, None)


def _shares_all(run: Results, other: Results) -> bool:
    return set(run["tasks"]) <= set(other["tasks"])


def _labels(runs: dict[Path, Results]) -> dict[Path, str]:
    """The model's name; with the folder's where two runs of one name share an evaluation."""
    names = {folder: Path(run["receipt"].get("model", folder.name)).name for folder, run in runs.items()}
    met = Counter((names[folder], task) for folder, run in runs.items() for task in run["tasks"])
    return {
        folder: f"{name} ({folder.name})" if any(met[name, task] > 1 for task in runs[folder]["tasks"]) else name
        for folder, name in names.items()
    }
