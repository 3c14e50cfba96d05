"""Which checkpoints of a run stay on the disk."""

import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def checkpoints(out: Path) -> dict[int, Path]:
    """The folders `checkpoint-<step>` in `out` by their step; `checkpoint-best` or the like belongs to the user."""
    return {int(match[1]): path for path in out.glob("checkpoint-*") if (match := _CHECKPOINT.fullmatch(path.name))}


class KeepCallback(TrainerCallback):
    """Does what `save_total_limit` says: the oldest checkpoints go, the newest and the best evaluated one stay.

    transformers' own rotation takes every folder `checkpoint-*` for one of its checkpoints, whoever made it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not args.should_save:
            return
        found = checkpoints(Path(str(args.output_dir)))
        kept = {state.global_step}
        if state.best_model_checkpoint is not None:
            kept |= {step for step, path in found.items() if path.name == Path(state.best_model_checkpoint).name}
        # By age: a folder may hold checkpoints of later steps of a former run.
        oldest_first = sorted(found.keys() - kept, key=lambda step: (found[step].stat().st_mtime, step))
        for step in oldest_first[: max(0, len(found) - max(self.limit, len(kept)))]:
            shutil.rmtree(found[step], ignore_errors=True)
