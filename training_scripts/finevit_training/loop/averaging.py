"""An average of the encoder's weights over the steps (EMA), kept beside the training and saved with it."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finevit_training.loop.parts import without_wrappers

AVERAGE_FILE = "ema.safetensors"


class AverageCallback(TrainerCallback):
    """Averages a module's weights: `average = decay · average + (1 - decay) · weights` after every step, in float32.

    In the first steps the decay is `(1 + step) / (10 + step)` where that is less, so that the random weights of the
    beginning are forgotten (as TensorFlow's and timm's averages do). The first process alone keeps it.

    Args:
        model: what is trained.
        path: the module in it that is averaged.
        decay: between 0 and 1.
    """

    def __init__(self, model: nn.Module, path: str, decay: float) -> None:
        self.module = without_wrappers(model).get_submodule(path)
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}

    def load(self, checkpoint: Path) -> None:
        """Goes on from a checkpoint.

        Raises:
            ValueError: it has no average.
        """
        path = checkpoint / AVERAGE_FILE
        if not path.is_file():
            raise ValueError(f"{path} is not there: the run that is resumed had no ema_decay; leave it out")
        self.average = load_file(path)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begins with the weights, unless it goes on."""
        for name, value in self.module.named_parameters():
            known = self.average.get(name)
            self.average[name] = value.detach().float().clone() if known is None else known.to(value.device)

    @torch.no_grad()
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        kept = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for name, value in self.module.named_parameters():
            self.average[name].lerp_(value.detach().float(), 1 - kept)
        if control.should_save:
            # Before the Trainer writes into it: a checkpoint that is whole has an average.
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            save_file(self.average, folder / AVERAGE_FILE)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The whole state of the module, buffers and all, with the average in the place of its weights."""
        averaged = {name: self.average[name].to(value.dtype) for name, value in self.module.named_parameters()}
        return self.module.state_dict() | averaged
