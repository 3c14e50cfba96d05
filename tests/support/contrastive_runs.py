"""Recipes of stage II at the smallest scale."""

from finevit_training.recipe import parse_recipe
from finevit_training.stages.contrastive.arguments import CONTRASTIVE_PARTS

ENTRY = ("-m", "finevit_training.contrastive")
SMALLEST_DUAL = {
    "size": "nano",
    "vocab_size": 512,
    "text_length": 24,
    "text_config": '{"num_hidden_layers": 1}',
    "vision_config": '{"num_hidden_layers": 1}',
    "max_pixels": 12544,
    "per_device_train_batch_size": 8,
    "text_frozen_share": 0,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "bf16": "false",
    "seed": 7,
}


def flags_of(**flags):
    """Command-line flags of the smallest recipe with others; None leaves one out."""
    values = {name: value for name, value in {**SMALLEST_DUAL, **flags}.items() if value is not None}
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def dual_recipe(**flags):
    return parse_recipe(flags_of(**flags), CONTRASTIVE_PARTS)
