"""Every use of what torch, transformers, TRL and huggingface_hub do not promise to keep, so that updates are checked
in one place.

The Trainer's private methods that `PackedTrainer` overrides must be overridden there.
"""

from typing import Any

import torch
from huggingface_hub import constants


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices in hardware. torch 2.15 has no public name for it."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def stop_hub_telemetry() -> None:
    """Keeps TRL from reporting the run. The environment variable is read at import, which may be long past."""
    constants.HF_HUB_DISABLE_TELEMETRY = True


def add_metric(trainer: Any, name: str, value: float) -> None:
    """Hands a metric to TRL, which logs the mean of those since the last log (TRL 1.16: `_metrics` by mode)."""
    trainer._metrics["train" if trainer.model.training else "eval"][name].append(value)


def losses_since_log(trainer: Any) -> tuple[torch.Tensor, int]:
    """The sum of this rank's losses since the last log (a scalar), and the step of that log (transformers 5.23)."""
    return getattr(trainer, "_tr_loss", torch.tensor(0.0)), getattr(trainer, "_globalstep_last_logged", 0)


def go_on_since_log(trainer: Any, total: float, logged_at: int) -> None:
    """Lets the Trainer's next log be the mean over all steps since `logged_at`, whose losses are `total` so far."""
    trainer._tr_loss += total
    trainer._globalstep_last_logged = logged_at
    trainer._total_loss_scalar -= total  # `train_loss` is the mean over the steps of this start
