"""Stage II: an encoder and a text tower learn from pairs of pictures and captions.

accelerate launch -m finevit_training.contrastive --recipe contrastive/nano_cpu --data outputs/corpus
accelerate launch -m finevit_training.contrastive --recipe contrastive/paper --data pairs \
    --per_device_train_batch_size 1024 --cache_pairs 128  # one GPU
accelerate launch --config_file training_scripts/finevit_training/recipes/accelerate/fsdp2_encoder_8x.yaml \
    -m finevit_training.contrastive --recipe contrastive/paper --data pairs
Several nodes, here two of eight GPUs (HSDP: each holds all weights). Slurm: `srun --ntasks-per-node 1 bash FILE` with
FIRST_NODE=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
accelerate launch --config_file training_scripts/finevit_training/recipes/accelerate/hsdp_encoder_2x8.yaml \
    --machine_rank $SLURM_NODEID --main_process_ip $FIRST_NODE -m finevit_training.contrastive \
    --recipe contrastive/paper --data pairs --per_device_train_batch_size 3072
SkyPilot, `num_nodes: 2`: FIRST_NODE=$(echo "$SKYPILOT_NODE_IPS" | head -n1) and `--machine_rank $SKYPILOT_NODE_RANK`.

In a checkout `training_scripts/contrastive.py` in place of `-m finevit_training.contrastive` does the same. Every key
of a recipe is a flag and every flag a key; flags win. `--resume_from_checkpoint last` goes on after a crash.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finevit_training.script import run_script

if TYPE_CHECKING:
    from finevit_training.stage import Stage


def main(argv: Sequence[str] | None = None) -> int:
    """Trains as the flags say, see `run_script`."""
    return run_script("contrastive", "finevit_training.stages.contrastive.arguments:CONTRASTIVE_PARTS", _stage, argv)


def _stage() -> "Stage":
    from finevit_training.stages.contrastive.stage import STAGE

    return STAGE


if __name__ == "__main__":
    sys.exit(main())
