"""Supervised fine-tuning of a FineViT-VL on FineCap records.

accelerate launch training_scripts/vl_sft.py --recipe sft/nano_cpu --data outputs/corpus --output_dir outputs/nano
accelerate launch training_scripts/vl_sft.py --recipe sft/gpu_1x
accelerate launch --config_file training_scripts/finevit_training/recipes/accelerate/fsdp2_8x.yaml \
    training_scripts/vl_sft.py --recipe sft/full_8x

Every key of a recipe is a flag and every flag a key; flags win. `--resume_from_checkpoint last` goes on after a crash.
"""

import os
import sys
from pathlib import Path

# A training run reports to nobody unless `report_to` says so.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# oneDNN keeps 1,024 generated kernels with their buffers; ragged batches fill them: 9 GB in ten minutes.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

from finevit_training.recipe import parse_recipe
from finevit_training.stages.sft import run

CARD_TEMPLATE = Path(__file__).parent / "finevit_training" / "card_templates" / "vl.md"


def main() -> None:
    try:
        recipe = parse_recipe(sys.argv[1:])
        out = run(recipe, CARD_TEMPLATE)
    except ValueError as error:
        sys.exit(f"vl_sft.py: {error}")
    print(f"model, processor, recipe, curve and card are in {out}")


if __name__ == "__main__":
    main()
