"""What the script of every stage does: refuse with one line, train, say how it ended."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from finevit_training.data.bad_records import UnusableData
from finevit_training.loop.keeping import checkpoints
from finevit_training.recipe import Parts, parse_recipe
from finevit_training.stage import Stage

INTERRUPTED = 130  # 128 + SIGINT
STOPPED_BY_SIGNAL = 143  # 128 + SIGTERM: what a shell and Slurm see of a process that this signal ended


def run_script(name: str, parts: Parts, load_stage: Callable[[], Stage], argv: Sequence[str] | None = None) -> int:
    """Trains a stage as the flags say.

    Args:
        name: of the script.
        parts: the dataclasses of the stage's recipe.
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
        recipe = parse_recipe(sys.argv[1:] if argv is None else argv, parts)
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
