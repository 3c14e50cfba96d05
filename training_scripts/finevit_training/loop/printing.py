"""What a run says while it goes."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finevit_training.loop.clock import Progress


class PrintCallback(TrainerCallback):
    """One line every `logging_steps`, one for each evaluation, one for each checkpoint."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if "eval_loss" in logs:
            print(f"step {state.global_step} evaluation: loss {logs['eval_loss']:.4f}", flush=True)
        if "loss" not in logs:
            return
        accuracy = f" acc {logs['mean_token_accuracy']:.3f}" if "mean_token_accuracy" in logs else ""
        imbalance = f" imbalance {logs['imbalance']:.1%}" if "imbalance" in logs else ""
        timed = "".join(
            f" {name.removesuffix('_share')} {share:.1%}"
            for name, share in logs.items()
            if name.endswith("_share") and name != "padding_share"
        )
        skipped = f" skipped {logs['skipped_records']:.0f}" if logs.get("skipped_records") else ""
        print(
            f"step {state.global_step} ({self.progress.fraction(state.global_step):.1%}, "
            f"{self.progress.elapsed:.0f} s) loss {logs['loss']:.4f}{accuracy} lr {logs['learning_rate']:.2e} | "
            f"{logs['images_per_second']:.1f} images/s {logs['tokens_per_second']:.0f} tokens/s "
            f"MFU {logs['mfu']:.1%} padding {logs['padding_share']:.1%} memory {logs['memory_gb']:.2f} GB"
            f"{timed}{imbalance}{skipped}",
            flush=True,
        )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            print(f"step {state.global_step}: checkpoint-{state.global_step} is saved", flush=True)
