"""What a ladder found: its figures as JSON, a table beside the paper's, and pictures."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.ladder.arms import arms, recipe_of, steps_of
from benchmarks.ladder.claims import CLAIMS, SCORES, Claim, Tasks, judge, sides
from benchmarks.ladder.drawing import draw_readings
from benchmarks.ladder.running import Ladder
from benchmarks.ladder.sizes import SIZES, Size
from benchmarks.measuring import conditions, progress
from finecap.files import write_json, write_text
from finevit_training.checkpoint import RECEIPT_FILE
from finevit_training.receipt import PACKAGES

Figures = dict[str, dict[str, Any]]
"""Of a seed: run -> {"trained": ..., "parameters": ..., "commit": ..., "plan": ..., "scores": ...}."""
# What the paper's Table 8 says of encoders after each stage: general and local average (second hand).
PAPER = {
    "sft_I": "57.12 / 48.04",
    "sft_II_after_I": "64.80 / 48.57",
    "sft_III_encoder": "73.29 / 70.33",
}
KEPT = ("steps", "samples", "flops", "minutes", "images_per_second", "last_loss")


def write_report(out: Path, size: str, ladders: Sequence[Ladder]) -> None:
    """Writes `<size>.json`, `<size>.md` and `<size>_readings.png` of what is there so far.

    Runs that an earlier report there tells of, and that are not in these ladders' folders, stay.
    """
    seeds = earlier_seeds(out, size)
    for ladder in ladders:
        runs = seeds.get(ladder.seed, {}) | figures(ladder)
        seeds[ladder.seed] = {name: runs[name] for name in ladder.runs if name in runs}
    seeds = dict(sorted(seeds.items()))
    scored = [{name: run["scores"]["tasks"] for name, run in runs.items() if run["scores"]} for runs in seeds.values()]
    found = [entry for claim in CLAIMS if (entry := judged(claim, scored))]
    report = {**conditions(PACKAGES), "size": size, "runs": seeds, "claims": found}
    write_json(out / f"{size}.json", report)
    write_text(out / f"{size}.md", page(size, seeds, scored, found))
    draw_readings(list(seeds.values()), out / f"{size}_readings.png")


def earlier_seeds(out: Path, size: str) -> dict[int, Figures]:
    """The figures that a report in a folder holds, by their seeds, without runs of other recipes."""
    path, known = out / f"{size}.json", plans(SIZES[size])
    if not path.exists():
        return {}
    seeds = {}
    for seed, runs in json.loads(path.read_text())["runs"].items():
        seeds[int(seed)] = {name: run for name, run in runs.items() if run.get("plan") == known.get(name)}
        if other := sorted(runs.keys() - seeds[int(seed)].keys()):
            progress(f"{path}: of seed {seed}, {', '.join(other)} had other recipes and do not count")
    return seeds


def plans(size: Size) -> dict[str, str]:
    """For each run the SHA-256 of all that decides what it measures: its recipe, those of the runs that it needs, and
    the numbers of the size.
    """
    numbers = [size.difficulty, size.rows, size.page_rows, size.page_sizes, size.questions, size.pool]
    found: dict[str, str] = {}
    for name, run in arms(size).items():
        recipe = recipe_of(run, size, Path("seed"), Path("data"), 0, steps_of(run, size))
        whole = json.dumps([recipe, numbers, [found[need] for need in run.needs]], sort_keys=True)
        found[name] = hashlib.sha256(whole.encode()).hexdigest()
    return found


def figures(ladder: Ladder) -> Figures:
    """Receipts and scores of the runs that are over."""
    found, planned = {}, plans(ladder.size)
    for name in ladder.runs:
        if (ladder.own / name / RECEIPT_FILE).exists():
            receipt, path = ladder.receipt(name), ladder.own / "scores" / f"{name}.json"
            found[name] = {
                "trained": {key: receipt["trained"][key] for key in KEPT},
                "parameters": receipt["model"]["parameters"],
                "commit": receipt["commit"],
                "plan": planned[name],
                "scores": json.loads(path.read_text()) if path.exists() else None,
            }
    return found


def judged(claim: Claim, scored: Sequence[Mapping[str, Tasks]]) -> dict[str, Any] | None:
    """A claim with what was measured for it; None where no seed has both runs."""
    pairs = sides(claim, scored)
    if not pairs:
        return None
    verdict = judge([more - less for more, less in pairs])
    return {
        **{"claim": claim.number, "text": claim.text, **claim.compared._asdict(), "paper": claim.paper},
        "scores": {"more": [more for more, _ in pairs], "less": [less for _, less in pairs]},
        **{"difference": verdict.difference, "two_errors": verdict.two_errors, "verdict": verdict.word},
    }


def page(
    size: str, seeds: Mapping[int, Figures], scored: Sequence[Mapping[str, Tasks]], found: Sequence[dict[str, Any]]
) -> str:
    """The tables as Markdown; scores in percent."""
    parts = [
        f"# The ladder, {size}: seeds {', '.join(map(str, seeds))}",
        "Scores in percent, means over seeds; ± is two standard errors over seeds. The paper's figures are second "
        "hand, of models a thousand times larger on other benchmarks: signs can be compared, sizes cannot.",
        _claims_table(found),
        "## Fine-tuned with a frozen encoder (the paper: general / local of Table 8)",
        _score_table(scored, ("doc", "easyvqa", "grounding", "chart"), ("general", "local"), PAPER),
        "## Retrieval, R@1",
        _score_table(scored, ("t2i_short", "i2t_short", "t2i_dense", "i2t_dense"), ("short", "dense"), {}),
        "Training text × queries (both ways): " + _two_by_two(scored),
        "## What each run took",
        _runs_table(seeds),
        f"![R@1 and loss at 10, 25, 50 and 100 % of stage II]({size}_readings.png)",
    ]
    return "\n\n".join(parts) + "\n"


def _claims_table(found: Sequence[dict[str, Any]]) -> str:
    lines = []
    for one in found:
        spread = "" if one["two_errors"] is None else f" ± {100 * one['two_errors']:.1f}"
        means = (f"{100 * mean(one['scores'][side]):.1f}" for side in ("more", "less"))
        difference, count = f"{100 * one['difference']:+.1f}{spread}", str(len(one["scores"]["more"]))
        compared = f"{one['more']} − {one['less']}, {one['score']}"
        lines.append(
            (one["claim"], one["text"], compared, " − ".join(means), difference, count, one["verdict"], one["paper"])
        )
    return _table(("", "claim", "compared", "scores", "difference", "seeds", "here", "the paper"), lines)


def _score_table(
    scored: Sequence[Mapping[str, Tasks]], tasks: Sequence[str], means: Sequence[str], paper: Mapping[str, str]
) -> str:
    names = dict.fromkeys(name for runs in scored for name, own in runs.items() if set(tasks) <= set(own))
    lines = []
    for name in names:
        own = [runs[name] for runs in scored if name in runs]
        values = [mean(one[task]["score"] for one in own) for task in tasks]
        values += [mean(SCORES[score](one) for one in own) for score in means]
        lines.append((name, *(f"{100 * value:.1f}" for value in values), *([paper.get(name, "")] if paper else ())))
    return _table(("run", *tasks, *means, *(["the paper"] if paper else ())), lines)


def _two_by_two(scored: Sequence[Mapping[str, Tasks]]) -> str:
    cells = []
    for text in ("short", "dense"):
        own = [runs[f"II_{text}"] for runs in scored if f"II_{text}" in runs]
        cells += [
            f"{text} text, {queries} queries {100 * mean(SCORES[queries](one) for one in own):.1f}"
            for queries in ("short", "dense")
            if own
        ]
    return "; ".join(cells) + "."


def _runs_table(seeds: Mapping[int, Figures]) -> str:
    lines = [
        (
            *(str(seed), name, f"{run['trained']['steps']:,}", f"{run['trained']['samples']:,}"),
            *(f"{run['trained']['flops'] / 1e12:.2f}", f"{run['trained']['minutes']:.1f}"),
            *(f"{run['trained']['images_per_second']:.0f}", f"{run['trained']['last_loss']:.3f}"),
        )
        for seed, runs in seeds.items()
        for name, run in runs.items()
    ]
    return _table(("seed", "run", "steps", "samples", "TFLOP", "minutes", "pictures/s at the end", "last loss"), lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
