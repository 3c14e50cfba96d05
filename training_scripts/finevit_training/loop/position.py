"""Of which stage a run is, and where it is in its data and in its curve, in checkpoints."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from finevit_training.compat import go_on_since_log, losses_since_log
from finevit_training.data.loader import PackedLoader


def refuse_other_packs(checkpoint: Path, loader: PackedLoader) -> None:
    """Raises ValueError if a run whose checkpoint says where it was in its data made other packs of it."""
    saved = _saved_by("PositionCallback", checkpoint)
    if "position" in saved:
        loader.refuse_other_packs(saved["position"])


def refuse_other_stage(checkpoint: Path, stage: str) -> None:
    """Raises ValueError if a checkpoint says that it is of another stage, whose model may be of the same class."""
    other = _saved_by("StageCallback", checkpoint).get("stage", stage)
    if other != stage:
        raise ValueError(
            f"the checkpoint {checkpoint} is of {other}, and this is {stage}: give the run an output_dir of its own, "
            "or start from the weights with `model: CHECKPOINT`"
        )


def _saved_by(callback: str, checkpoint: Path) -> dict[str, Any]:
    callbacks = json.loads((checkpoint / "trainer_state.json").read_text()).get("stateful_callbacks", {})
    return callbacks.get(callback, {}).get("attributes", {})


class StageCallback(TrainerCallback, ExportableState):
    """Keeps the stage's name in the Trainer's state."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"stage": self.stage}}


class PositionCallback(TrainerCallback, ExportableState):
    """Keeps the loader's position in the Trainer's state, and goes on from it."""

    def __init__(self, loader: PackedLoader) -> None:
        self.loader = loader

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"position": self.loader.state_dict()}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        callbacks: Any = state.stateful_callbacks  # a dict of states once the Trainer has made the state
        saved = callbacks.get("PositionCallback", {}).get("attributes", {})
        if "position" in saved:
            self.loader.load_state_dict(saved["position"])
        elif state.global_step:
            raise ValueError(
                f"the checkpoint of step {state.global_step} does not say where its run was in the data: an older "
                "version wrote it. Start again from its weights with `model: CHECKPOINT`"
            )


class CurveCallback(TrainerCallback, ExportableState):
    """Keeps the losses since the last log in the Trainer's state, so that the first log after a resume is the mean of
    as many steps as in a run that never stopped. Comes after the callbacks that decide when a checkpoint is saved.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.total = 0.0

    def state(self) -> dict[str, Any]:
        _, logged_at = losses_since_log(self.trainer)
        total = 0.0 if logged_at == self.trainer.state.global_step else self.total
        return {"args": {}, "attributes": {"total": total, "logged_at": logged_at}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        callbacks: Any = state.stateful_callbacks
        saved = callbacks.get("CurveCallback", {}).get("attributes", {})
        if saved and state.global_step:
            go_on_since_log(self.trainer, saved["total"], saved["logged_at"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_save or control.should_evaluate:  # which may save the best weights
            losses, _ = losses_since_log(self.trainer)
            self.total = self.trainer.accelerator.reduce(losses.clone(), reduction="mean").item()
