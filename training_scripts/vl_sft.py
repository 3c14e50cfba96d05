"""Supervised fine-tuning of a FineViT-VL on FineCap records.

accelerate launch training_scripts/vl_sft.py --recipe training_scripts/recipes/nano_cpu.yaml --data outputs/corpus \
    --output_dir outputs/nano
accelerate launch training_scripts/vl_sft.py --recipe training_scripts/recipes/gpu_1x.yaml
accelerate launch --config_file training_scripts/recipes/fsdp2_8x.yaml training_scripts/vl_sft.py \
    --recipe training_scripts/recipes/full_8x.yaml

Every key of a recipe is a flag and every flag a key; flags win. `--resume_from_checkpoint last` goes on after a crash.
"""

import os
import sys
from pathlib import Path

# A training run reports to nobody unless `report_to` says so.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# oneDNN keeps 1,024 generated kernels with their buffers; ragged batches fill them: 9 GB in ten minutes.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

from finevit_vl.training.recipe import parse_recipe
from finevit_vl.training.run import run

CARD_TEMPLATE = Path(__file__).parents[1] / "model_cards" / "finevit_vl.template.md"


def main() -> None:
    try:
        recipe = parse_recipe(sys.argv[1:])
        out = run(recipe, CARD_TEMPLATE)
    except ValueError as error:
        sys.exit(f"vl_sft.py: {error}")
    print(f"model, processor, recipe, curve and card are in {out}")


if __name__ == "__main__":
    main()
