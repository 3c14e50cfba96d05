"""Which records were left out, why, by all ranks and before a resume as well."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finevit_training.data.bad_records import reason_kind
from finevit_training.data.reader import Skip

SKIPPED_FILE = "skipped_records.json"
_PASSED_OVER = "passed over: "  # how the reason of a row begins that is not bad


def add_skip(skipped: dict[str, str], skip: Skip) -> None:
    """Adds a row's reason to those by record id. That it is bad counts for more than that it does not fit the run."""
    if skip.is_bad:
        skipped[skip.id] = skip.reason
    else:
        skipped.setdefault(skip.id, _PASSED_OVER + skip.reason)


def bad_rows(skipped: dict[str, str]) -> int:
    """How many of the rows something is wrong with; the others the recipe does not ask about, or they do not fit."""
    return sum(not reason.startswith(_PASSED_OVER) for reason in skipped.values())


def kinds_of_reasons(skipped: dict[str, str]) -> tuple[Counter[str], Counter[str]]:
    """How many rows were left out for each kind of reason: those that something is wrong with, and the others."""
    bad: Counter[str] = Counter()
    passed_over: Counter[str] = Counter()
    for reason in skipped.values():
        kinds = passed_over if reason.startswith(_PASSED_OVER) else bad
        kinds[reason_kind(reason.removeprefix(_PASSED_OVER))] += 1
    return bad, passed_over


def skipped_of_all_ranks(skipped: dict[str, str]) -> dict[str, str]:
    """Reason by record id of all processes; a collective."""
    merged: dict[str, str] = {}
    for of_rank in gather_object([skipped]):
        merged = of_rank | merged
    return merged


def write_skipped(folder: Path, skipped: dict[str, str]) -> Path:
    """Writes the records that were left out into a folder that is there; returns the file."""
    path = folder / SKIPPED_FILE
    path.write_text(json.dumps(skipped, indent=1))
    return path


class SkippedCallback(TrainerCallback):
    """Keeps the skipped records of all ranks in checkpoints."""

    def __init__(self, skipped: dict[str, str]) -> None:
        self.skipped = skipped

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        merged = skipped_of_all_ranks(self.skipped)
        if state.is_world_process_zero:
            write_skipped(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}", merged)


def load_skipped(checkpoint: Path, rank: int) -> dict[str, str]:
    """What was skipped before `checkpoint`: for rank 0 all of it, nothing for the others."""
    path = checkpoint / SKIPPED_FILE
    return json.loads(path.read_text()) if rank == 0 and path.is_file() else {}
