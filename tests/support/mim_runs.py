"""The smallest recipe of stage I, and teachers in folders."""

import json

from finevit_training.recipe import parse_recipe
from finevit_training.stages.mim.arguments import MIM_PARTS
from tests.support.tiny_teachers import scaling, tiny_teacher

SMALLEST_MIM = {
    "size": "nano",
    "vision_config": json.dumps({"num_hidden_layers": 2, "initializer_range": 0.06}),
    "max_pixels": 112**2,
    "max_patches": 256,
    "logging_steps": 1,
    "bf16": "false",
    "seed": 7,
    "cpu_threads": 1,
}


def mim_recipe(**flags):
    """The smallest recipe with further flags; those that are None are left out."""
    values = {name: value for name, value in {**SMALLEST_MIM, **flags}.items() if value is not None}
    return parse_recipe([part for key, value in values.items() for part in (f"--{key}", str(value))], MIM_PARTS)


def save_teacher(folder, family="dinov3"):
    """A folder of a small random teacher, as `AutoModel` loads it."""
    tiny_teacher(family).save_pretrained(folder)
    scaling().save_pretrained(folder)
    return str(folder)


def losses_of(trainer):
    """The logged losses of a run."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
