"""What the script of every stage does: refuse with one line, train, say how it ended."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finevit_training.data.bad_records import UnusableData
from finevit_training.early import refuse_early

if TYPE_CHECKING:
    from finevit_training.stage import Stage

INTERRUPTED = 130  # 128 + SIGINT
STOPPED_BY_SIGNAL = 143  # 128 + SIGTERM: what a shell and Slurm see of a process that this signal ended


def run_script(name: str, parts: str, load_stage: Callable[[], "Stage"], argv: Sequence[str] | None = None) -> int:
    """Trains a stage as the flags say.

    Args:
        name: of the script.
        parts: where the dataclasses of the stage's recipe are, as "module:NAME".
        load_stage: imports the stage; called once the recipe is read, because a recipe is refused in half the time
            without what trains it.
        argv: flags; those of the process without it.

    Returns:
        0 after a finished run, 143 after one that SIGTERM ended with a checkpoint, 130 after Ctrl-C, which saves none.

    Raises:
        SystemExit: the recipe cannot be run, or its data cannot be trained on; one line says why. What goes wrong
            later raises with its traceback.
    """
    try:
        argv = sys.argv[1:] if argv is None else argv
        refuse_early(argv, parts)
        from finevit_training.recipe import parse_recipe  # which brings torch and transformers

        module, _, variable = parts.partition(":")
        recipe = parse_recipe(argv, getattr(importlib.import_module(module), variable))
        stage = load_stage()
        # Here and not above, for the same reason.
        from finevit_training.stages.running import plan, prepare_run, train

        run = prepare_run(stage, recipe)
        if recipe.training.dry_run:
            print(plan(run))
            return 0
    except ValueError as error:
        sys.exit(f"{name}: {error}")
    try:
        out = train(run)
    except UnusableData as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        from finevit_training.loop.keeping import checkpoints

        if run.trainer.accelerator.is_main_process:
            saved = checkpoints(Path(run.recipe.training.output_dir))
            left = (
                f"--resume_from_checkpoint last goes on from step {max(saved)}" if saved else "no checkpoint was saved"
            )
            print(f"{name}: interrupted; {left}", file=sys.stderr)
        return INTERRUPTED
    if out is None:
        return STOPPED_BY_SIGNAL
    if run.trainer.accelerator.is_main_process:
        print(f"model, processor, recipe, curve, receipt and card are in {out}")
    return 0
