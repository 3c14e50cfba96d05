"""Supervised fine-tuning of a FineViT-VL on FineCap records.

accelerate launch -m finevit_training.vl_sft --recipe sft/nano_cpu --data outputs/corpus --output_dir outputs/nano
accelerate launch -m finevit_training.vl_sft --recipe sft/gpu_1x
accelerate launch --config_file training_scripts/finevit_training/recipes/accelerate/fsdp2_8x.yaml \
    -m finevit_training.vl_sft --recipe sft/full_8x

In a checkout `training_scripts/vl_sft.py` in place of `-m finevit_training.vl_sft` does the same. Every key of a
recipe is a flag and every flag a key; flags win. `--resume_from_checkpoint last` goes on after a crash.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from finevit_training.data.bad_records import UnusableData
from finevit_training.loop.keeping import checkpoints
from finevit_training.recipe import parse_recipe

INTERRUPTED = 130  # 128 + SIGINT
STOPPED_BY_SIGNAL = 143  # 128 + SIGTERM: what a shell and Slurm see of a process that this signal ended


def main(argv: Sequence[str] | None = None) -> int:
    """Trains as the flags say.

    Returns:
        0 after a finished run, 143 after one that SIGTERM ended with a checkpoint, 130 after Ctrl-C, which saves none.

    Raises:
        SystemExit: the recipe cannot be run, or its data cannot be trained on; one line says why. What goes wrong
            later raises with its traceback.
    """
    try:
        recipe = parse_recipe(sys.argv[1:] if argv is None else argv)
        # Here and not above: a recipe is refused in half the time without what trains it.
        from finevit_training.stages.sft import prepare_run, train

        run = prepare_run(recipe)
    except ValueError as error:
        sys.exit(f"vl_sft: {error}")
    try:
        out = train(run)
    except UnusableData as error:
        sys.exit(f"vl_sft: {error}")
    except KeyboardInterrupt:
        if run.trainer.accelerator.is_main_process:
            saved = checkpoints(Path(run.recipe.training.output_dir))
            left = (
                f"--resume_from_checkpoint last goes on from step {max(saved)}" if saved else "no checkpoint was saved"
            )
            print(f"vl_sft: interrupted; {left}", file=sys.stderr)
        return INTERRUPTED
    if out is None:
        return STOPPED_BY_SIGNAL
    if run.trainer.accelerator.is_main_process:
        print(f"model, processor, recipe, curve, receipt and card are in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
