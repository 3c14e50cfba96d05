"""Options of the Trainer and of TRL that would do nothing here, or something else than they say, and what to use."""

from collections.abc import Mapping
from typing import Any

_BY_RECORD = "batches are made of records here"
_OWN_LOADER = "batches come in the order of the run, from workers that are started as PyTorch does"
_OWN_EVALUATION = "`eval_strategy` measures the loss and nothing else"
_MODEL_IS_BUILT = "the model is built from the recipe's model keys"

# Option -> why it has no effect here, and what has.
WITHOUT_EFFECT = {
    "loss_type": "the loss is the cross entropy of the supervised tokens",
    "label_smoothing_factor": "the loss is the cross entropy of the supervised tokens",
    "data_seed": "`seed` decides the order of the records and the questions",
    "dataloader_persistent_workers": "the loader is opened once a run; its workers live as long anyway",
    "dataloader_multiprocessing_context": _OWN_LOADER,
    "dataloader_in_order": _OWN_LOADER,
    "length_column_name": "`group_by_length` estimates lengths itself",
    "shuffle_dataset": "every epoch is in an order of its own in any case",
    "packing_strategy": "`pack_samples` packs",
    "liger_kernel_config": "liger knows no FineViT-VL and would change nothing, without a word",
    "use_cache": "training uses no cache",
    "prediction_loss_only": _OWN_EVALUATION,
    "eval_accumulation_steps": _OWN_EVALUATION,
    "eval_do_concat_batches": _OWN_EVALUATION,
    "eval_use_gather_object": _OWN_EVALUATION,
    "include_for_metrics": _OWN_EVALUATION,
    "batch_eval_metrics": _OWN_EVALUATION,
    "dataloader_drop_last": "every batch of the run is full",
    "train_sampling_strategy": "`group_by_length` orders records by length",
    "auto_find_batch_size": "the order of the records follows from per_device_train_batch_size",
    "packing": "`pack_samples` packs",
    "eval_packing": "`pack_samples` packs",
    "padding_free": "`pack_samples` packs",
    "truncation_mode": "sequences are not cut; turns beyond max_length are left out",
    "pad_to_multiple_of": "batches are padded to a multiple of 16",
    "assistant_only_loss": "the loss is on the assistant's words in any case",
    "completion_only_loss": "the loss is on the assistant's words in any case",
    "dataset_text_field": _BY_RECORD,
    "dataset_num_proc": _BY_RECORD,
    "dataset_kwargs": _BY_RECORD,
    "remove_unused_columns": _BY_RECORD,
    "label_names": _BY_RECORD,
    "chat_template_path": "the chat template is the processor's",
    "model_init_kwargs": _MODEL_IS_BUILT,
    "trust_remote_code": _MODEL_IS_BUILT,
    "use_liger_kernel": "liger knows no FineViT-VL and would change nothing, without a word",
    "enable_jit_checkpoint": "SIGTERM saves a checkpoint in any case, on all ranks at the same step",
    "restore_callback_states_from_checkpoint": "the clock is restored in any case; other callbacks have no state",
    "logging_nan_inf_filter": "a loss that is no number ends the run",
    "do_train": "the script trains",
    "do_eval": "`eval_strategy` evaluates",
    "do_predict": "`finevit eval` predicts",
}
_OF_A_PART = {
    "vision_learning_rate": "train_tower",
    "projector_learning_rate": "train_projector",
    "projector_warmup_steps": "train_projector",
}
_RATIOS = ("save_steps", "logging_steps", "eval_steps")
_STRATEGIES = ("save_strategy", "logging_strategy", "eval_strategy")


def refuse_options(asked: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises ValueError for the first option of a recipe that would not do what it says.

    Args:
        asked: what the recipe's file and flags say.
        defaults: of all options; asking for the default is no mistake.
    """
    for name, reason in WITHOUT_EFFECT.items():
        if name in asked and asked[name] != defaults[name]:
            raise ValueError(f"{name}: {asked[name]!r} would have no effect: {reason}; leave it out")
    for name in _STRATEGIES:
        if str(asked.get(name)) == "epoch":
            raise ValueError(
                f"{name}: epoch would have no effect: the run is one pass over batches of all its epochs; use `steps`"
            )
    for name, part in _OF_A_PART.items():
        if asked.get(name) and asked.get(part) is False:
            raise ValueError(f"{name} would have no effect with {part}: false; leave one of them out")
    if asked.get("lora_alpha") is not None and not asked.get("lora_rank"):
        raise ValueError("lora_alpha would have no effect without lora_rank; give a rank, such as 16")
    if asked.get("max_minutes") is not None:
        _refuse_beside_the_clock(asked)
    if str(asked.get("eval_strategy", "no")) == "no":
        for name in ("eval_split", "eval_records", "load_best_model_at_end"):
            if asked.get(name):
                raise ValueError(f"{name} would have no effect without evaluation; add eval_strategy: steps")


def _refuse_beside_the_clock(asked: Mapping[str, Any]) -> None:
    if asked.get("num_train_epochs") is not None:
        raise ValueError("num_train_epochs would have no effect: max_minutes ends the run; leave one of them out")
    if asked.get("projector_warmup_steps"):
        raise ValueError(
            "projector_warmup_steps counts steps, and max_minutes lets the schedule follow the clock: use max_steps "
            "or num_train_epochs, or train the projector alone first (train_tower: false, train_llm: false)"
        )
    for name in _RATIOS:
        if 0 < float(asked.get(name) or 0) < 1:
            raise ValueError(
                f"{name}: {asked[name]} is a share of the run's steps, which max_minutes leaves open; give whole steps"
                + (", or save_minutes" if name == "save_steps" else "")
            )
