"""Where a run is in its data, in checkpoints."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from finevit_training.data.loader import PackedLoader


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
