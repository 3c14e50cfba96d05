"""Stage III: an encoder is aligned with a language model on global captions, captions of boxes and text, both ways.

accelerate launch -m finevit_training.align --recipe align/nano_cpu --vision outputs/contrastive --data outputs/corpus
accelerate launch -m finevit_training.align --recipe align/paper --data finecap  # one GPU that holds all of it
accelerate launch --config_file training_scripts/finevit_training/recipes/accelerate/fsdp2_8x.yaml \
    -m finevit_training.align --recipe align/paper --data finecap
Several nodes, here two of eight GPUs (HSDP: each holds all weights). Slurm: `srun --ntasks-per-node 1 bash FILE` with
FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
accelerate launch --config_file training_scripts/finevit_training/recipes/accelerate/hsdp_2x8.yaml \
    --machine_rank $SLURM_NODEID --main_process_ip $FIRST_NODE -m finevit_training.align \
    --recipe align/paper --data finecap --gradient_accumulation_steps 2
SkyPilot, `num_nodes: 2`: FIRST_NODE=$(echo "$SKYPILOT_NODE_IPS" | head -n1) and `--machine_rank $SKYPILOT_NODE_RANK`.

`vision` is the folder of any former stage. The whole is saved as a FineViT-VL, which `vl_sft` goes on from (`model`),
and the encoder in the folder `encoder`. `--train_tower false` is the paper's ablation, `--train_llm false` leaves the
language model alone. In a checkout `training_scripts/align.py` in place of `-m finevit_training.align` does the same.
Every key of a recipe is a flag and every flag a key; flags win. `--resume_from_checkpoint last` goes on after a crash.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finevit_training.script import run_script

if TYPE_CHECKING:
    from finevit_training.stage import Stage


def main(argv: Sequence[str] | None = None) -> int:
    """Trains as the flags say, see `run_script`."""
    return run_script("align", "finevit_training.stages.sft.arguments:SFT_PARTS", _stage, argv)


def _stage() -> "Stage":
    from finevit_training.stages.align.stage import STAGE

    return STAGE


if __name__ == "__main__":
    sys.exit(main())
